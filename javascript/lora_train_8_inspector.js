// One picture of the room Dataset: with its crop drawn, its caption as the model reads it, its tags and its text to edit.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const [LONG, ALONE] = [6, 4]; // words of a tag, and of a caption without commas, from which on it is a sentence
    const MOST = 400; // tags to choose from
    const WAIT = 120; // milliseconds that the cursor rests on a picture before all of it is asked for

    /** What a caption's first line holds, one by one, and what stands on further lines. */
    const parted = (text, by) => {
        const [first, ...rest] = text.split("\n");
        return { tags: first.split(by).map((tag) => tag.trim()).filter(Boolean), rest };
    };
    const joined = (tags, rest, by) => [tags.join(/^\s*$/.test(by) ? by : `${by} `), ...rest].join("\n");
    const sentence = (tags) => Math.max(0, ...tags.map((tag) => tag.split(/\s+/).length)) >= (tags.length === 1 ? ALONE : LONG);

    /**
     * given.ask(name): asks for all of a picture. given.write(name, text): changes its caption. given.step(by): to another picture.
     * given.tags(): asks for [tag, count], the most frequent first. given.filter(tag): shows those that have it. given.leave(): back to the gallery.
     * given.tools(item): buttons of what can be done to it.
     *
     * Gives {element, show(row), edit()}.
     */
    page.inspector = (given) => {
        const separator = () => page.draft.value("data.caption_separator") || ",";
        const empty = el("p.hint", {}, t("Choose a picture: with the arrow keys, or a click. Space chooses several, Ctrl-A all, / goes to the filter."));
        const inside = el("div.inspected", { hidden: true });
        const element = el("section.inspector", { "aria-label": t("Picture"), "data-says": "" }, empty, inside);
        const head = el("h3.file-name");
        const facts = el("p.hint");
        const stage = el("div.stage");
        const tools = el("div.line");
        const eye = el("div.eye");
        const chips = el("ul.tags", { "aria-label": t("Tags") });
        const add = el("input", { type: "text", list: "lt_known_tags", autocomplete: "off", spellcheck: "false", "aria-label": t("Add tags"), placeholder: t("add tags, with commas between") });
        const known = el("datalist", { id: "lt_known_tags" });
        const text = el("textarea", { rows: 3, spellcheck: "false", "aria-label": t("Caption") });
        const state = el("span.hint", { role: "status" });
        const save = page.button(t("Save"), () => store(), { title: "Ctrl+Enter" });
        const trouble = el("p.warn.sign", { hidden: true });
        inside.append(el("div.line.top", {}, page.button("←", () => given.step(-1), { "aria-label": t("The picture before") }), head,
            page.button("→", () => given.step(1), { "aria-label": t("The next picture") })), stage, facts, tools, trouble, eye,
        el("div.tagging", {}, chips, el("div.line", {}, add, known)), text, el("div.line", {}, save, state));
        let [now, timer, asked, last, drawn] = [null, null, 0, Promise.resolve(), ""];
        let [writes, writing, again] = [0, 0, false];

        // ── to another picture ──
        async function show(row) {
            if (now && (!row || row.name !== now.name) && dirty()) void store().catch(fail); // what was typed is not lost
            clearTimeout(timer);
            page.show(empty, !row);
            page.show(inside, row);
            if (!row) return void (now = null);
            const other = !now || now.name !== row.name;
            now = { ...(other ? {} : now), ...row, text: other ? row.caption : now.text };
            page.write(head, row.name);
            if (other) {
                page.fill(eye);
                page.fill(tools);
                page.show(trouble, false);
                page.write(state, "");
                put(row.caption);
            }
            drawStage();
            timer = setTimeout(() => load(row.name).catch(fail), other ? WAIT : 0);
        }
        async function load(name) {
            if (writing) return void (again = true);
            const [mine, before] = [++asked, writes];
            const found = await given.ask(name);
            if (mine !== asked || !now || now.name !== name) return;
            if (before !== writes || writing) return void (again = true); // older than what is being written
            const clean = !dirty();
            now = found;
            if (clean) put(found.text);
            drawStage();
            drawEye();
            page.fill(tools, given.tools(found));
            page.say(element, "");
        }
        const fail = (error) => page.say(element, error.message);

        // ── the picture ──
        function drawStage() {
            const source = page.pictureOf(now, 512);
            let image = stage.querySelector("img");
            if (!image || image.getAttribute("src") !== source) image = el("img", { src: source, alt: now.name, draggable: "false" });
            const parts = [image];
            if (now.fit && now.size) {
                const [width, height] = now.size;
                const [left, top, across, down] = now.fit.crop;
                const box = el("div.crop-box", { role: "img", "aria-label": t("What of it is trained on") });
                box.style.cssText = `left:${(100 * left) / width}%;top:${(100 * top) / height}%;width:${(100 * across) / width}%;height:${(100 * down) / height}%`;
                parts.push(box);
            }
            page.fill(stage, el("div.shown", {}, parts));
            const of = [now.size ? `${now.size[0]} × ${now.size[1]}` : null, page.bytes(now.bytes), [now.format, now.mode].filter(Boolean).join(" ") || null,
                now.fit ? t("bucket {size}", { size: now.fit.bucket.join("×") }) : null,
                now.fit ? t(now.fit.scale > 1 ? "enlarged to {part} %" : "reduced to {part} %", { part: Math.round(100 * now.fit.scale) }) : null,
                now.fit && cutOff() > 0.5 ? t("{part} % cut off", { part: Math.round(cutOff()) }) : null];
            page.fill(facts, of.filter(Boolean).join(" · "), now.problems.map((kind) => [" ", el(page.grave([kind]).length ? "span.badge.sign.bad" : "span.badge", {}, page.kindOf(kind))]).flat());
            const wrong = [now.file_error, now.caption_error, now.fit_error].filter(Boolean).map(page.said).join("\n");
            page.write(trouble, wrong);
            page.show(trouble, wrong);
        }
        const cutOff = () => 100 * (1 - (now.fit.crop[2] * now.fit.crop[3]) / (now.size[0] * now.size[1]));

        // ── the caption as the model reads it ──
        function drawEye() {
            const over = Boolean(now.lost);
            page.fill(eye, el("div.label", {}, el("span", {}, t("As the model reads it")), el("span", { class: over ? "lt-warn" : "lt-unit" }, t("{n} of {limit} tokens", { n: now.tokens, limit: now.limit }))),
                el("p.model-reads", {}, now.read || el("span.hint", {}, t("nothing")), over ? el("span.limit", { title: t("Here the {limit} tokens end; what follows is not read.", now) }, String(now.limit)) : null,
                    over ? el("s", {}, now.lost) : null));
        }

        // ── tags ──
        function put(value) {
            text.value = value;
            text.rows = Math.min(9, Math.max(3, Math.ceil(value.length / 46)));
            drawTags();
        }
        function drawTags() {
            const { tags, rest } = parted(text.value, separator());
            page.show(chips.parentNode, !sentence(tags));
            if (drawn === JSON.stringify([tags, rest])) return; // one that is dragged or has the focus stays the same element
            drawn = JSON.stringify([tags, rest]);
            page.fill(chips, tags.map(chip));
        }
        const taken = (tags, rest) => {
            text.value = joined(tags, rest, separator());
            drawTags();
            return store();
        };
        const focused = (i) => {
            const every = chips.querySelectorAll(".lt-tag-name");
            (every[Math.min(i, every.length - 1)] || add).focus();
        };
        async function remove(i) {
            const { tags, rest } = parted(text.value, separator());
            const stored = taken(tags.filter((other, k) => k !== i), rest);
            focused(i);
            await stored;
        }
        async function move(from, to) {
            const { tags, rest } = parted(text.value, separator());
            if (to < 0 || to >= tags.length || to === from || !(from in tags)) return;
            tags.splice(to, 0, ...tags.splice(from, 1));
            const stored = taken(tags, rest);
            focused(to);
            await stored;
        }
        function chip(tag, i) {
            const name = el("span.tag-name", { role: "button", tabindex: "0", onclick: () => given.filter(tag), title: t("Click: show those that have it. Alt with the arrow keys, or dragging, moves it; Delete takes it away.") }, tag); // no button, of which not every browser lets a drag begin
            const made = el("li.tag", { draggable: "true" }, name, page.button("×", () => remove(i), { kind: "plain", "aria-label": `${t("Remove")} ${tag}`, tabindex: "-1" }));
            name.addEventListener("keydown", (event) => {
                const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
                if (event.key === "Delete" || event.key === "Backspace") remove(i).catch(fail);
                else if (event.key === "Enter" || event.key === " ") given.filter(tag);
                else if (by && event.altKey) move(i, i + by).catch(fail);
                else if (by) (made[by < 0 ? "previousElementSibling" : "nextElementSibling"] || made).firstChild.focus();
                else return;
                event.preventDefault();
                event.stopPropagation();
            });
            made.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/x-lt-tag", String(i)));
            made.addEventListener("dragover", (event) => event.dataTransfer.types.includes("text/x-lt-tag") && event.preventDefault());
            made.addEventListener("drop", (event) => {
                const from = event.dataTransfer.getData("text/x-lt-tag");
                if (from === "") return;
                event.preventDefault();
                event.stopPropagation(); // the WebUI reads what is dropped
                move(Number(from), i).catch(fail);
            });
            return made;
        }
        const added = () => {
            const { tags, rest } = parted(text.value, separator());
            const fresh = add.value.split(separator().trim() || ",").map((tag) => tag.trim()).filter((tag) => tag && !tags.includes(tag));
            add.value = "";
            if (!fresh.length) return;
            text.value = sentence(tags) ? `${text.value} ${fresh.join(" ")}` : joined([...tags, ...fresh], rest, separator());
            drawTags();
            store().catch(fail);
        };
        add.addEventListener("keydown", (event) => event.key === "Enter" && (event.preventDefault(), added()));
        add.addEventListener("focus", () => given.tags().then((tags) => page.fill(known, tags.slice(0, MOST).map(([tag, n]) => el("option", { value: tag }, String(n))))).catch(fail));

        // ── saving ──
        const dirty = () => Boolean(now) && text.value.trim() !== (now.text || "").trim();
        /** One after the other, so that what is typed last is what stands there at the end. */
        function store() {
            if (!dirty()) return Promise.resolve();
            const [name, words] = [now.name, text.value.trim()];
            now.text = words;
            writes++;
            writing++;
            page.write(state, t("Saving …"));
            last = last.catch(() => {}).then(() => given.write(name, words)).finally(() => {
                writing--;
                if (again && !writing && now) timer = setTimeout(() => now && load(now.name).catch(fail), WAIT);
                if (!writing) again = false;
            }).then(() => {
                if (now && now.name === name) page.write(state, t("Saved."));
                page.say(element, "");
            }, (error) => {
                if (now && now.name === name) now.text = null; // it is still to be saved
                page.write(state, "");
                throw error;
            });
            return last;
        }
        text.addEventListener("input", () => {
            drawTags();
            page.write(state, dirty() ? t("Not saved yet: Ctrl+Enter, or go to another picture.") : "");
        });
        element.addEventListener("keydown", (event) => {
            if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === text) page.busy(save, store);
            else if (event.key === "Escape") given.leave();
            else if (event.altKey && (event.key === "PageDown" || event.key === "PageUp")) given.step(event.key === "PageDown" ? 1 : -1);
            else return;
            event.preventDefault();
            event.stopPropagation();
        });

        return { element, show, now: () => now, settled: () => last.catch(() => {}), edit: () => {
            if (!now) return;
            text.focus();
            text.setSelectionRange(text.value.length, text.value.length);
        } };
    };
})();
