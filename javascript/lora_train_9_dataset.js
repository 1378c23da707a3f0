// The room Dataset: a folder is opened, its pictures filtered, looked at, captioned, and changed one or many at a time.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const WAIT = 280; // milliseconds after the last key
    const FRESH = 4000; // between looks at the folder when a person comes back to the page
    const SORTS = { name: "by name", newest: "newest first", caption: "by caption", shortest: "shortest caption first", smallest: "smallest first",
        largest: "largest first", widest: "widest first", problems: "most problems first", loss: "highest loss first" };
    const WORDS = ["is:uncaptioned", "is:captioned", "is:empty", "problem:", "width<512", "height<512", "ratio>2", "tokens>75", "tags>30", "name:", "text:", "NOT", "OR"];

    page.room("dataset", "Dataset", () => room());

    function room() {
        const kept = page.kept("dataset") || {};
        let [state, only, run, looked, seen] = [null, "", null, 0, ""];
        let [known, stale] = [[], true]; // tags of the whole folder, to choose from

        async function learn() {
            if (stale && state) {
                stale = false;
                known = (await page.ask("POST", "/dataset/tags", { where: { ...where(), only: "" } })).tags;
            }
            return known;
        }

        // ── asking ──
        let opened = {}; // which folder, whatever is being typed meanwhile
        const named = () => ({ folder: folder.value.trim(), recursive: deep.checked, ...extension() });
        const where = () => ({ ...opened, only });
        const extension = () => {
            const [own] = String(page.draft.value("data.caption_extension") || "").split(",").map((one) => one.trim()); // the one that is written
            return own && own !== ".txt" ? { caption_extension: own } : {};
        };
        const order = () => ({ sort: sort.value || "name", ...(run ? { run } : {}) });
        const data = () => Object.fromEntries(Object.entries(page.draft.values).filter(([path]) => path.startsWith("data.") || path === "model.max_token_length"));
        const ask = (what, more) => page.ask("POST", `/dataset/${what}`, { where: where(), ...more });

        // ── above: which folder ──
        const folder = el("input", { type: "text", id: "lt_dataset_folder", autocomplete: "off", spellcheck: "false", placeholder: "D:\\lora\\10_okara", value: kept.folder || "" });
        const deep = el("input", { type: "checkbox", checked: kept.recursive === true });
        const holder = el("div.picked");
        const choose = page.button(t("Choose…"), () => page.folders(holder, folder.value, (found) => {
            folder.value = found;
            open().catch(fail);
        }));
        const train = page.button(t("From the Train form"), async () => {
            const own = page.draft.value("data.train_data_dir");
            if (!own) throw new Error(t("No folder is named there yet."));
            folder.value = own;
            await open();
        });
        const use = page.button(t("Train on this folder"), () => {
            page.draft.set("data.train_data_dir", state.folder);
            page.folded = false;
            page.tell("editing", null);
            page.go("train");
        }, { hidden: true });
        const begin = page.button(t("Open"), () => open(), { kind: "main" });
        folder.addEventListener("keydown", (event) => event.key === "Enter" && page.busy(begin, () => open()));
        deep.addEventListener("change", () => state && open().catch(fail));
        const opening = el("section.bench.opening", { "data-says": "", "aria-label": t("Folder") }, el("div.line", {}, el("label.named", { for: "lt_dataset_folder" }, t("Pictures")), folder, choose, begin, train, use,
            el("label.goal", {}, deep, t("folders within it, too"))), holder);
        const fail = (error) => page.say(opening, error.message);

        // ── what is open, and undo ──
        const summary = el("span", { role: "status" });
        const undo = page.button(t("Undo"), () => turn("undo"), { title: "Ctrl+Z" });
        const redo = page.button(t("Redo"), () => turn("redo"), { title: "Ctrl+Shift+Z" });
        const top = el("div.workbar.line", { "data-says": "" }, summary, el("span.grow"), undo, redo);

        // ── the filter line ──
        const { box: above, line: filter, said: filtered } = filterLine({ tags: () => known, hungry: learn, problems: () => Object.keys((state && state.problems) || {}), leave: () => gallery.focus(), changed: (text) => {
            only = text;
            return relist();
        } });
        const sort = el("select", { "aria-label": t("Order"), onchange: () => relist().catch(fail) });
        const runs = el("select", { "aria-label": t("Losses of a run"), hidden: true, onchange: () => byLoss(runs.value || null).catch(fail) });
        above.append(sort, runs);
        async function byLoss(name) {
            run = name;
            told(state);
            sort.value = run ? "loss" : "name";
            await relist();
        }
        async function offered() {
            const names = (await page.ask("GET", "/runs")).map((one) => one.name);
            page.fill(runs, el("option", { value: "" }, t("losses of no run")), names.map((name) => el("option", { value: name }, t("losses of {name}", { name }))));
            runs.value = run || "";
            page.show(runs, names.length);
        }

        // ── the parts ──
        const nothing = el("p.nothing", { hidden: true }, t("No picture is like that."), " ", page.button(t("Show all"), () => filter.set("")));
        const gallery = page.gallery({
            items: async (begin, count) => {
                const found = await ask("items", { from: begin, count, values: data(), ...order() });
                page.write(filtered, only ? t("{n} of {of}", { n: found.total, of: state.pictures }) : "");
                page.show(nothing, !found.total);
                return found;
            },
            names: async () => (await ask("names", order())).names,
            shown: (row) => inspector.show(row),
            changed: () => bar.look(),
            edit: () => {
                show("picture");
                inspector.edit();
            },
            typed: (letter) => filter.begin(letter),
        });
        const inspector = page.inspector({
            ask: (name) => ask("item", { name, values: data() }),
            write: async (name, text) => {
                const { only: unused, ...place } = where();
                await page.work("captions", { ...place, names: [name], ...(text ? { set: text } : { clear: true }) });
                soon(); // not waited for: of a large folder it takes longer than to go on writing
            },
            step: (by) => gallery.step(by), tags: learn, leave: () => gallery.focus(),
            filter: (tag) => filter.set(page.tagFilter(tag)),
            tools: (row) => page.pictureTools(row, { values: () => where(), has: (name) => bar.has(name), done: changed }),
        });
        const bar = page.worksBar({ scope, control: page.paintControl(() => inspector.now()), done: () => changed().catch(fail) });
        const health = page.healthPanel({ values: where, rows: () => bar.rows("check"), filter: (text) => filter.set(text), done: () => changed(true).catch(fail), mend: async (finding) => {
            const { names, ...values } = finding.fix.values;
            await filter.set(finding.filter ? `problem:${finding.kind}` : "");
            gallery.choose(names || []);
            await bar.use(finding.fix.work, values);
        } });
        const tags = page.tagsPanel({ ask: () => ask("tags"), filter: (word, without) => filter.add(without ? `-${word}` : word) });
        const changes = page.changesPanel({ ask: () => ask("history") });
        function scope() {
            const chosen = gallery.chosen();
            const { only: line, ...place } = where();
            const some = chosen.count > 0 && !chosen.all;
            return { count: chosen.count || gallery.total(), values: some ? { ...place, names: chosen.names } : { ...place, ...(line ? { only: line } : {}) },
                words: some ? t("With the {n} chosen:", { n: chosen.count }) : line ? t("With the {n} shown:", { n: gallery.total() }) : t("With all {n}:", { n: gallery.total() }) };
        }

        // ── the side: one of four ──
        const sides = { picture: ["Picture", inspector.element], tags: ["Tags", tags.element], report: ["Problems", health.element], changes: ["Changes", changes.element] };
        const tabs = Object.entries(sides).map(([id, [title]]) => el("button.tab", { type: "button", role: "tab", "data-side": id, onclick: () => show(id), onkeydown: (event) => {
            const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
            if (!by) return;
            const next = tabs[(tabs.indexOf(event.target) + by + tabs.length) % tabs.length];
            show(next.dataset.side);
            next.focus();
        } }, t(title)));
        const side = el("div.side", {}, el("div.line.side-tabs", { role: "tablist", "aria-label": t("Beside the pictures") }, tabs), Object.values(sides).map(([, element]) => el("div.side-panel", { role: "tabpanel" }, element)));
        let at = "picture";
        function show(id) {
            at = id;
            tabs.forEach((tab) => {
                tab.setAttribute("aria-selected", String(tab.dataset.side === id));
                tab.tabIndex = tab.dataset.side === id ? 0 : -1;
            });
            Object.keys(sides).forEach((one, i) => page.show(side.children[i + 1], one === id));
            if (state) void fresh();
        }
        const fresh = () => Promise.all([at === "tags" ? tags.load() : null, at === "changes" ? changes.load() : null]);

        const work = el("div.workshop", { hidden: true }, top, above, el("div.desk", {}, el("div.left", { "data-says": "" }, gallery.element, nothing), side), bar.element);
        const lesson = teach(folder, open);
        const element = el("div.body.dataset", { "data-says": "" }, opening, lesson, work);

        // ── opening, and what is others now ──
        async function open() {
            if (!folder.value.trim()) throw new Error(t("Name a folder of pictures, or choose one."));
            page.fill(holder);
            await inspector.settled();
            const look = () => page.ask("POST", "/dataset/open", { where: named() });
            let found = await look();
            if (!found.pictures && !deep.checked) {
                deep.checked = true; // folders like 10_name lie within it
                found = await look();
                if (!found.pictures) deep.checked = false;
            }
            const other = !state || state.folder !== found.folder;
            folder.value = found.folder;
            opened = named();
            page.kept("dataset", { folder: found.folder, recursive: deep.checked });
            page.say(opening, "");
            if (other) {
                [only, run] = ["", null];
                filter.clear();
                health.reset();
            }
            told(found);
            page.show(work, found.pictures);
            page.show(use, found.pictures);
            page.show(lesson, !found.pictures);
            lesson.none(found);
            if (!found.pictures) return;
            await gallery.again(!other);
            if (other) gallery.go(0);
            gallery.focus();
            await Promise.all([fresh(), offered()]);
        }
        function told(found) {
            state = found;
            looked = Date.now();
            seen = JSON.stringify(data());
            stale = true;
            const parts = [t("{n} pictures", { n: found.pictures }), t("{n} with captions", { n: found.captioned }),
                found.outside ? t("{n} links to outside left alone", { n: found.outside }) : null,
                (found.recovered || []).length ? t("broken off, and taken back: {titles}", { titles: found.recovered.map(page.said).join(", ") }) : null];
            page.write(summary, parts.filter(Boolean).join(" · "));
            for (const [button, what, word] of [[undo, found.undo, t("Undo")], [redo, found.redo, t("Redo")]]) {
                button.disabled = !what;
                page.write(button, what ? `${word}: ${page.said(what)}` : word);
            }
            health.known(found.problems);
            const before = sort.value || "name";
            const sorts = [...found.sorts, ...(run ? ["loss"] : [])];
            page.fill(sort, sorts.map((name) => el("option", { value: name }, t(SORTS[name] || name))));
            sort.value = sorts.includes(before) ? before : "name";
        }
        async function changed(looked) {
            if (looked !== true) health.stale();
            told(await ask("open"));
            await gallery.again(true);
            bar.look();
            await fresh();
        }
        let [behind, wanted] = [false, false];
        function soon() {
            wanted = behind;
            if (behind) return;
            behind = true;
            changed().catch(fail).finally(() => {
                behind = false;
                if (wanted) soon();
            });
        }
        async function relist() {
            if (!state) return;
            await gallery.again(false);
            bar.look();
            if (at === "tags") await tags.load();
        }
        /** Of an undo that files stand against which something else has changed, what is left of it where a person says so. */
        const taken = (what) => ask(what).catch((error) => {
            if (what !== "undo" || !error.message.includes("leave_changed")) throw error;
            const files = error.message.split("\n").slice(0, -1).map(page.said).join("\n");
            return window.confirm(`${t("Something else has changed files since. Take back the others, and leave these as they are?")}\n\n${files}`) ? ask(what, { leave: true }) : null;
        });

        async function turn(what) {
            await inspector.settled();
            const found = await taken(what);
            if (!found) return;
            told(found);
            await gallery.again(true);
            bar.look();
            await fresh();
        }

        // ── keys that hold wherever the focus is in the room, but where text is typed ──
        element.addEventListener("keydown", (event) => {
            const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
            const held = event.ctrlKey || event.metaKey;
            const key = event.key.toLowerCase();
            if (!state || typing || element.querySelector("dialog[open]")) return;
            if (held && key === "z") page.busy(event.shiftKey ? redo : undo, () => turn(event.shiftKey ? "redo" : "undo"));
            else if (held && key === "y") page.busy(redo, () => turn("redo"));
            else if (key === "/" && !held) filter.focus();
            else return;
            event.preventDefault();
        });
        const back = () => {
            if (!state || element.offsetParent === null || document.hidden || Date.now() - looked < FRESH) return;
            looked = Date.now();
            const [before, after] = [seen, JSON.stringify(data())];
            ask("open").then((found) => (found.version !== state.version || before !== after) && changed()).catch(fail);
        };
        page.on("room", (id) => id === "dataset" && back());
        window.addEventListener("focus", back);

        /** From elsewhere: this folder; run: by its losses. */
        page.openDataset = async (path, byRun) => {
            page.go("dataset");
            folder.value = path;
            await open();
            if (byRun) await byLoss(byRun).then(offered);
        };
        show("picture");
        page.show(lesson, true);
        if (kept.folder) open().catch(fail);
        return element;
    }

    // ── the filter ──
    function filterLine({ tags, hungry, problems, changed, leave }) {
        const input = el("input", { type: "search", id: "lt_dataset_filter", role: "combobox", "aria-expanded": "false", "aria-controls": "lt_dataset_words", "aria-autocomplete": "list", autocomplete: "off",
            spellcheck: "false", "aria-label": t("Filter"), placeholder: t("cat -dog, is:uncaptioned, width<512, problem:blurred, /regex/") });
        const said = el("span.unit", { role: "status" });
        const list = el("ul.menu.words", { role: "listbox", id: "lt_dataset_words", hidden: true, "aria-label": t("Words for the filter") });
        const box = el("div.line.filter", { "data-says": "", role: "search" }, el("div.grow.above", {}, input, list), said);
        let [timer, at, last] = [null, -1, ""];
        const act = async () => {
            clearTimeout(timer);
            if (input.value.trim() === last) return;
            last = input.value.trim();
            try {
                await changed(last);
                page.say(box, "");
            } catch (error) {
                page.say(box, error.message);
            }
        };
        const part = () => /(?:^|[\s(])(-?)("[^"]*|[^\s()"]*)$/.exec(input.value.slice(0, input.selectionStart)) || ["", "", ""];
        const propose = () => {
            const [, minus, word] = part();
            const bare = word.replace(/^"/, "").toLowerCase();
            const from = [...WORDS, ...problems().map((kind) => `problem:${kind}`), ...tags().map(([tag]) => page.tagFilter(tag))];
            const fit = bare ? from.filter((one) => one.toLowerCase().replace(/^"/, "").includes(bare) && one !== word).slice(0, 9) : [];
            at = -1;
            page.fill(list, fit.map((one, i) => el("li", { role: "option", id: `lt_dataset_word_${i}`, "aria-selected": "false", onmousedown: (event) => {
                event.preventDefault();
                take(one, minus, word);
            } }, one)));
            expand(fit.length > 0);
        };
        const expand = (whether) => {
            page.show(list, whether);
            input.setAttribute("aria-expanded", String(whether));
            if (!whether) input.removeAttribute("aria-activedescendant");
        };
        const take = (one, minus, word) => {
            const end = input.selectionStart;
            input.setRangeText(one.endsWith(":") ? one : `${one} `, end - word.length, end, "end");
            expand(false);
            void act();
        };
        const pick = (by) => {
            at = (at + by + list.children.length) % list.children.length;
            [...list.children].forEach((one, i) => one.setAttribute("aria-selected", String(i === at)));
            input.setAttribute("aria-activedescendant", `lt_dataset_word_${at}`);
        };
        input.addEventListener("input", () => {
            propose();
            clearTimeout(timer);
            timer = setTimeout(act, WAIT);
        });
        input.addEventListener("focus", () => hungry().then(() => document.activeElement === input && input.value && propose()).catch((error) => page.say(box, error.message)));
        input.addEventListener("blur", () => expand(false));
        input.addEventListener("keydown", (event) => {
            const open = !list.hidden;
            if (open && event.key === "ArrowDown") pick(1);
            else if (open && event.key === "ArrowUp") pick(-1);
            else if (event.key === "Enter" && open && at >= 0) take(list.children[at].textContent, ...part().slice(1));
            else if (event.key === "Enter") act().then(leave);
            else if (event.key === "Escape" && open) expand(false);
            else if (event.key === "Escape") leave();
            else if (event.key === "ArrowDown") leave();
            else return;
            event.preventDefault();
            event.stopPropagation();
        });
        const line = {
            focus: () => input.focus(),
            begin: (letter) => {
                input.focus();
                input.value += `${input.value && !input.value.endsWith(" ") ? " " : ""}${letter}`;
                input.dispatchEvent(new Event("input"));
            },
            set: (text) => {
                input.value = text;
                return act();
            },
            add: (word) => {
                const words = input.value.trim();
                input.value = !words || words === word ? word : words.split(/\s+/).includes(word) ? words : `${words} ${word}`;
                return act();
            },
            clear: () => (input.value = last = ""),
        };
        return { box, said, line };
    }

    // ── nothing there yet ──
    function teach(folder, open) {
        const none = el("p.warn.sign", { hidden: true });
        const demo = page.button(t("Open the demo's pictures"), async () => {
            const found = await page.ask("POST", "/demo");
            folder.value = found.values["data.train_data_dir"];
            await open();
        });
        const box = el("section.teach", { "data-says": "", hidden: true }, none, el("p", {}, el("strong", {}, t("A dataset is a folder of pictures, each with a text file of the same name that says what is on it:"))),
            el("pre", {}, "10_okara\\\n  0001.png\n  0001.txt    okara, sitting, snow\n  0002.jpg\n  0002.txt    okara, close-up, smile"),
            el("p", {}, t("Open one to look through it, find what is wrong with it, write or have written its captions, and cut its pictures. Everything that is done here can be undone.")),
            el("div.line", {}, el("span", {}, t("To try it, there are 28 drawings that come along:")), demo));
        box.none = (found) => {
            page.write(none, found.pictures ? "" : t("There are no pictures in {folder}.", found));
            page.show(none, !found.pictures);
        };
        return box;
    }
})();
