// What a tool has to say: its lines and files; of inspect, metadata and card tables that can be used.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const FIRST = 40; // tags that are shown before more are asked for
    const SHORT = 160; // characters of a value before it is opened
    const READERS = ["extract", "resize", "convert", "merge"]; // tools whose result may be a LoRA

    const table = (heads, rows) => el("div.scroll", {}, el("table", {}, el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
        el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, i) => (i ? el("td", {}, cell) : el("th", { scope: "row" }, cell))))))));
    const part = (title, ...inside) => el("section", { "aria-label": title }, el("h4", {}, title), inside.flat(Infinity));
    const fold = (title, make) => {
        const box = el("details.fold", { "data-says": "" }, el("summary", {}, title));
        box.addEventListener("toggle", () => box.append(make()), { once: true });
        return box;
    };

    async function copied(text, said) {
        await navigator.clipboard.writeText(text).catch(() => {
            throw new Error(t("This browser does not let a page copy; the text is: {text}", { text }));
        });
        page.write(said, t("Copied: {text}", { text }));
    }

    /** act.use(name, values): goes to a tool with these values and, where it only looks, runs it. */
    page.report = (task, act) => {
        const { facts } = task;
        const own = task.state !== "done" ? [] : facts.blocks ? inspected(facts, act) : task.name === "card" && facts.card ? carded(task, act)
            : task.name === "metadata" && facts.metadata ? [edited(facts.metadata, task.values, act)] : null;
        const words = (task.lines || []).join("\n");
        return [
            task.error ? el("p.warn.sign.lines", {}, page.said(task.error)) : null,
            (task.notes || []).map((note) => el("p.note", {}, page.said(note))),
            (task.files || []).map((file) => written(file, task, act)),
            own && own.length ? own : null,
            !words ? null : own && own.length ? fold(t("In words"), () => el("pre.lines", {}, page.said(words))) : el("pre.lines", {}, page.said(words)),
        ].flat(Infinity);
    };

    function written(file, task, act) {
        const said = el("span.hint", { role: "status" });
        const readable = READERS.includes(task.name) && file.endsWith(".safetensors") && !task.values.sd_model;
        const open = async () => {
            try {
                await page.ask("POST", "/open", { path: file });
            } catch {
                await copied(file, said);
            }
        };
        return el("div", { "data-says": "" }, el("div.line.file", {}, el("code", {}, file), el("span.grow"),
            readable ? page.button(t("Inspect"), () => act.use("inspect", { model: file })) : null, page.button(t("Open folder"), open), said),
        /\.png$/i.test(file) ? el("img.drawn", { src: `${page.picture(file)}&drawn=${task.id}`, alt: file }) : null);
    }

    // ── inspect ──
    function inspected(facts, act) {
        const said = el("p.hint", { role: "status" });
        const trigger = facts.trigger ? page.button(facts.trigger, () => copied(facts.trigger, said), { kind: "chip", title: t("Copy") }) : "–";
        const ranks = facts.ranks.slice(0, 4).map((row) => t("rank {rank}, alpha {alpha}: {layers} layers",
            { rank: page.number(row.rank), alpha: page.number(row.alpha), layers: row.layers }));
        const rows = [
            [t("Model"), facts.said], [t("Layers"), `${facts.layers.length} · ${facts.precision}`],
            [t("Holds"), Object.entries(facts.forms).map(([form, n]) => `${form} (${n})`).join(", ")],
            [t("Ranks"), ranks.join("; ") + (facts.ranks.length > 4 ? "; …" : "")], [t("Trigger word"), trigger],
        ];
        const damaged = facts.faults.map((row) => el("li.sign", {}, `${row.layer}: ${row.fault}`));
        return [
            el("dl.facts", {}, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]).flat()), said,
            damaged.length ? part(t("Damaged"), el("ul.warn", {}, damaged)) : null,
            facts.zero.length ? el("p.warn.sign", {}, t("{n} layers add nothing", { n: facts.zero.length })) : null,
            el("div.two", {}, el("div", {}, part(t("Norm of what is added, by block"), bars(facts.blocks)), tags(facts, said)),
                el("div", {}, part(t("Fits"), fits(facts)))),
            moved(facts), trained(facts, said),
            fold(t("Every layer"), () => table(["layer", "form", "rank", "alpha", "norm", "share"].map((word) => t(word)), facts.layers.map((row) => [row.key, row.form,
                page.number(row.rank), page.number(row.alpha), row.fault || page.number(row.norm), row.share === null ? "–" : `${page.number(100 * row.share)} %`]))),
            fold(t("Metadata"), () => edited(facts.metadata, { model: facts.file }, act)),
        ];
    }

    function bars(blocks) {
        const most = Math.max(...Object.values(blocks), 1e-12);
        const rows = Object.entries(blocks).map(([name, norm]) => {
            const filled = el("div.filled");
            filled.style.width = `${((100 * norm) / most).toFixed(1)}%`;
            return el("li", {}, el("span.name", {}, name), el("div.bar", { "aria-hidden": "true" }, filled), el("span", {}, page.number(norm)));
        });
        return rows.length ? el("ul.courses", {}, rows) : el("p.note", {}, t("They depend on the checkpoint; give it as base."));
    }

    function fits({ fits: models, programs }) {
        const rows = Object.entries(models).map(([name, fit]) => {
            const bad = [[t("no such layer there"), fit.strange], [t("of another shape there"), fit.unlike]].filter(([, keys]) => keys.length);
            const of = fit.fits + fit.strange.length + fit.unlike.length;
            return [name, bad.length ? t("{n} of {of}", { n: fit.fits, of }) : t("all"), bad.map(([why, keys]) => `${why}: ${keys.length} (${keys[0]}${keys.length > 1 ? ", …" : ""})`).join("; ")];
        });
        const readers = Object.entries(programs).map(([name, row]) => [name, row.reads === row.of ? t("all") : t("{n} of {of}", { n: row.reads, of: row.of }),
            Object.keys(row.not).join("; ")]);
        return table([t("read by, or fits"), t("layers"), t("why not")], [...rows, ...readers]);
    }

    function tags({ tags: found, folders, buckets }, said) {
        if (!found.length && !Object.keys(folders).length) return part(t("Trained on"), el("p.note", {}, t("The file does not say what it was trained on.")));
        const list = el("div.line.prompts");
        const most = found.length ? found[0].count : 1;
        const chip = (row) => {
            const made = page.button(row.tag, () => copied(row.tag, said), { kind: "chip", title: `${t("Copy")} · ${row.folders.join(", ")}` });
            made.append(el("span.hint", {}, ` ${row.count}`));
            made.style.backgroundImage = `linear-gradient(90deg, var(--lt-line) ${((100 * row.count) / most).toFixed(0)}%, transparent 0)`;
            return made;
        };
        const more = page.button(t("Show more"), () => {
            page.fill(list, found.map(chip));
            page.show(more, false);
        }, { hidden: found.length <= FIRST });
        page.fill(list, found.slice(0, FIRST).map(chip));
        return part(t("Trained on"), el("p.hint", {}, t("A click copies the tag.")), list, more,
            Object.entries(folders).map(([name, row]) => el("p", {}, el("code", {}, name), " ", t("{pictures} pictures, {repeats} times", { pictures: row.img_count, repeats: row.n_repeats }))),
            buckets.length ? el("p.hint", {}, `${t("Buckets")}: ${buckets.map((row) => `${row.size} (${row.count})`).join(", ")}`) : null);
    }

    function moved({ tokens }) {
        return Object.entries(tokens || {}).map(([name, rows]) => part(t("Tokens moved most: {part}", { part: name }),
            el("div.line.prompts", {}, rows.map((row) => el("span.token", {}, `${row.text} ${page.number(100 * row.share)} %`)))));
    }

    function trained(facts, said) {
        const stated = Object.entries(facts.hashes).filter(([, row]) => row.stated !== null)
            .map(([name, row]) => el("p", { class: row.equal ? null : "lt-warn" }, el("code", {}, `${name} ${row.found}`), row.equal ? ` · ${t("as stated")}` : ` · ${t("the file states {stated}", row)}`));
        if (!facts.command) return stated;
        const use = () => {
            page.draft.load({ ...facts.job, "place.resume": null });
            page.folded = false;
            page.tell("editing", null);
            page.go("train");
        };
        return [part(t("Train like this"), el("pre.lines", {}, facts.command), el("div.line", {}, page.button(t("Use its settings"), use),
            page.button(t("Copy"), () => copied(facts.command, said))), facts.notes.map((note) => el("p.note", {}, page.said(note)))), stated];
    }

    // ── card ──
    function carded(task, act) {
        const rows = Object.entries(task.facts.card).filter(([, value]) => typeof value !== "object");
        const values = Object.fromEntries(rows.map(([name, value]) => [name.replace(/ /g, "_"), value]).filter(([name, value]) => act.knows("card", name) && value !== ""));
        return [table([t("field"), t("value")], rows.map(([name, value]) => [name, String(value) || "–"])),
            task.facts.pictures.slice(0, 1).map((file) => el("img.drawn", { src: page.picture(file), alt: file })),
            el("div.line", {}, page.button(t("Edit these"), () => act.put("card", { model: task.values.model, ...values })))];
    }

    // ── metadata ──
    function edited(texts, values, act) {
        const file = values.save_to || values.model;
        const changed = new Map(); // name -> new text, null: taken away
        const count = el("span.hint", { role: "status" });
        const box = el("div.metadata", { "data-says": "" });
        const tell = () => page.write(count, changed.size ? t("{n} changed", { n: changed.size }) : "");
        const rows = Object.entries(texts).sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, text]) => line(name, text, changed, tell));
        const [key, value] = [el("input", { type: "text", "aria-label": t("New entry"), placeholder: "modelspec.author" }), el("input", { type: "text", "aria-label": t("Its value") })];
        const add = page.button(t("Add"), () => {
            if (!key.value.trim()) throw new Error(t("Give the new entry a name, such as modelspec.author."));
            const fresh = line(key.value.trim(), "", changed, tell, value.value);
            list.append(...fresh);
            key.value = value.value = "";
        });
        const list = el("dl.entries", {}, rows.flat());
        const save = page.sure(t("Save into the file"), () => t("Write what is changed ({n}) into {file}? Its weights stay as they are.", { n: changed.size, file }), t("Yes, save"), async () => {
            if (!changed.size) throw new Error(t("Nothing is changed."));
            const all = [...changed];
            await act.begin("metadata", { model: file, overwrite: true, set: all.filter(([, v]) => v !== null).map(([k, v]) => `${k}=${v}`),
                remove: all.filter(([k, v]) => v === null && k in texts).map(([k]) => k) });
        });
        page.fill(box, rows.length ? null : el("p.note", {}, t("The file says nothing of itself.")), list, el("div.line", {}, key, value, add), el("div.line", {}, save, count));
        return box;
    }

    /** An entry: its name, its text, and what can be done to it. */
    function line(name, text, changed, tell, begin) {
        const long = text.length > SHORT;
        const shown = el("code", {}, long ? `${text.slice(0, SHORT)}… (${text.length})` : text || "–");
        const place = el("dd", {}, text.startsWith("data:image/") ? el("img.drawn", { src: text, alt: name }) : shown);
        const set = (value) => {
            if (value === text) changed.delete(name);
            else changed.set(name, value);
            head.classList.toggle("lt-changed", changed.has(name));
            tell();
        };
        const edit = page.button(t("Edit"), () => {
            const input = el("textarea", { rows: long ? 8 : 2, "aria-label": name, spellcheck: "false" });
            input.value = changed.get(name) || begin || text;
            input.addEventListener("input", () => set(input.value));
            page.fill(place, input);
            input.focus();
        }, { kind: "plain", "aria-label": `${t("Edit")} ${name}` });
        const remove = page.button("×", () => {
            const gone = changed.get(name) === null;
            set(gone ? text : null);
            page.fill(place, gone ? shown : el("s", {}, shown));
        }, { kind: "plain", "aria-label": `${t("Remove")} ${name}` });
        const head = el("dt", {}, el("span.name", {}, name), el("span.grow"), edit, remove);
        if (begin !== undefined) {
            set(begin);
            page.write(shown, begin);
        }
        return [head, place];
    }
})();
