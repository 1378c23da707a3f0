// Choosing files of weights: from what there is, by a path, by dropping one; one, or several as chips.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const SHOWN = 60; // files in the list before more words are typed

    const base = (path) => path.replace(/[\\/]+$/, "").replace(/^.*[\\/]/, "");
    const kinds = (row) => (row.holds === "any" ? ["lora", "checkpoint"] : [row.holds]);

    /** A list with a search over it. */
    async function choose(row, holder, done) {
        const found = await page.ask("GET", "/tools/files");
        const files = kinds(row).flatMap((kind) => found[kind] || []);
        const list = el("ul.folders");
        const close = () => page.fill(holder);
        const search = el("input", { type: "search", "aria-label": t("Search"), placeholder: t("Search") });
        const draw = () => {
            const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
            const fit = files.filter((file) => words.every((word) => file.path.toLowerCase().includes(word)));
            page.fill(list, fit.slice(0, SHOWN).map((file) => el("li", {}, page.button("", () => {
                close();
                done(file.path);
            }, { kind: "plain", title: file.path }))), fit.length > SHOWN ? el("li.hint", {}, t("and {n} more; type a part of the name", { n: fit.length - SHOWN })) : null,
            fit.length ? null : el("li.hint", {}, t("There is none here; type its path.")));
            list.querySelectorAll("button").forEach((button, i) => button.append(el("span", {}, fit[i].name),
                el("span.hint", {}, ` ${fit[i].bytes === null ? t("folder") : page.bytes(fit[i].bytes)} · ${page.clock(fit[i].when)}`)));
        };
        search.addEventListener("input", draw);
        page.fill(holder, el("div.picker", { role: "group", "aria-label": t("Choose a file"), onkeydown: (e) => e.key === "Escape" && close() },
            el("div.line", {}, search, page.button(t("Close"), close)), list));
        draw();
        search.focus();
    }

    /** What was dropped, as a path; a browser says of a file only its name, so it has to be among those that are known. */
    async function dropped(row, data) {
        const text = (data.getData("text/uri-list") || data.getData("text/plain")).split("\n")[0].trim();
        if (text.startsWith("file://")) return decodeURIComponent(new URL(text).pathname).replace(/^\/([A-Za-z]:)/, "$1");
        if (text) return text;
        const file = data.files[0];
        const found = await page.ask("GET", "/tools/files");
        const same = kinds(row).flatMap((kind) => found[kind] || []).filter((one) => one.name === file.name && (one.bytes === null || one.bytes === file.size));
        if (same.length) return same[0].path;
        throw new Error(t("A browser does not say where {name} lies; type its path.", { name: file.name }));
    }

    /** A control for page.rows: of settings that hold files, {input, box, wide, read, put}; of others null. */
    page.fileControl = (row, given, changed) => {
        if (!row.holds) return null;
        let paths = []; // of several
        const input = el("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder: row.several ? t("path of another file") : null, ...given });
        const holder = el("div.picked");
        const list = el("ol.line.chosen", { hidden: true });
        const take = (path) => {
            if (!row.several) input.value = path;
            else {
                paths = [...paths, path];
                input.value = "";
                draw();
            }
            changed();
        };
        const draw = () => {
            page.show(list, paths.length);
            page.fill(list, paths.map((path, i) => el("li.token", { title: path }, base(path), " ", page.button("×", () => {
                paths = paths.filter((other, k) => k !== i);
                draw();
                changed();
                input.focus();
            }, { kind: "plain", "aria-label": `${t("Remove")} ${base(path)}` }))));
        };
        if (row.several) input.addEventListener("keydown", (e) => {
            if (e.key !== "Enter" || !input.value.trim()) return;
            e.preventDefault();
            take(input.value.trim());
        });
        const picks = row.holds !== "new" && row.holds !== "picture";
        const chooser = picks ? page.button(t("Choose…"), () => (holder.firstChild ? page.fill(holder) : choose(row, holder, take)),
            { "aria-label": `${t("Choose…")} ${row.name.replace(/_/g, " ")}` }) : null;
        const loaded = row.holds === "checkpoint" ? page.button(t("The loaded one"), () => {
            const model = (page.status && page.status.model) || page.draft.header;
            if (!model.path) throw new Error(t("No checkpoint is loaded."));
            take(model.path);
        }, { "aria-label": `${t("The loaded one")}: ${row.name.replace(/_/g, " ")}` }) : null;
        const box = el("div.files", { "data-says": "" }, list, el("div.line", {}, input, chooser, loaded), holder);
        box.addEventListener("dragover", (e) => e.preventDefault());
        box.addEventListener("drop", (e) => {
            e.preventDefault();
            e.stopPropagation(); // the WebUI reads dropped pictures' prompts
            dropped(row, e.dataTransfer).then(take).then(() => page.say(box, "")).catch((error) => page.say(box, error.message));
        });
        const read = () => {
            const typed = input.value.trim();
            if (!row.several) return typed || null;
            return typed ? [...paths, typed] : paths;
        };
        const put = (value) => {
            if (!row.several) input.value = value || "";
            else {
                paths = typeof value === "string" ? [value] : [...(value || [])];
                draw();
            }
        };
        return { input, box, wide: true, read, put };
    };
})();
