// One setting as a field: its control, its complaint, why it has no effect, and the way back.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    let count = 0;

    page.ASKED = ["data.train_data_dir", "objective.target", "objective.positive", "objective.negative"]; // what a run is about

    /** Range, choices and default of a setting, in words. */
    page.range = (s) => {
        const said = [];
        const has = (n) => n !== null && n !== undefined;
        const unit = s.unit ? ` ${t(s.unit)}` : "";
        if (has(s.low) && has(s.high)) said.push(t("{low} to {high}", { low: s.low, high: s.high }) + unit);
        else if (has(s.low)) said.push(t("{low} or more", { low: s.low }) + unit);
        else if (has(s.high)) said.push(t("up to {high}", { high: s.high }) + unit);
        else if (unit) said.push(unit.trim());
        said.push(t("default {value}", { value: page.shown(s.default) }));
        return said.join(" · ");
    };

    page.shown = (value) => {
        if (value === null || value === undefined || value === "") return t("empty");
        if (value === true) return t("on");
        if (value === false) return t("off");
        return Array.isArray(value) ? value.join(", ") : String(value);
    };

    function control(s, given) {
        const nullable = s.optional;
        if (s.type === "bool" && !nullable) return el("input", { type: "checkbox", ...given });
        const choices = s.type === "bool" ? ["true", "false"] : s.choices;
        if (s.type === "bool" || (choices && choices.length)) {
            const empty = nullable ? [el("option", { value: "" }, t("empty"))] : [];
            const named = { true: t("on"), false: t("off") };
            return el("select", given, empty, choices.map((c) => el("option", { value: c }, s.type === "bool" ? named[c] : String(c))));
        }
        const number = s.type === "int" || s.type === "float";
        return el("input", { type: "text", inputmode: number ? "decimal" : null, autocomplete: "off", spellcheck: "false",
            placeholder: page.shown(s.default), ...given });
    }

    function read(s, input) {
        if (input.type === "checkbox") return input.checked;
        if (s.type === "bool") return input.value === "" ? null : input.value === "true";
        return page.draft.read(s, input.value);
    }

    function put(input, value) {
        if (input.type === "checkbox") input.checked = value === true || value === "true";
        else if (document.activeElement !== input || input.tagName === "SELECT") {
            const text = value === null || value === undefined ? "" : Array.isArray(value) ? value.join(",") : String(value);
            if (input.value !== text) input.value = text;
        }
    }

    /**
     * given.title: words over it, else the setting's name. given.path: a function, where the path itself depends on values.
     * given.inverse: the box says the opposite of the setting. given.alone: not greyed, for it takes over when it is typed in.
     * given.placeholder: what an empty one means.
     * given.typed(value): called after a change by hand. given.row: as in "All settings", with help, range and reset.
     */
    page.field = (path, given) => {
        const draft = page.draft;
        const at = () => (typeof path === "function" ? path() : path);
        const s = () => draft.settings[at()];
        const id = `lt_field_${++count}`;
        const own = given || {};
        const input = control(s(), { id, "aria-describedby": `${id}_said`, ...(own.placeholder ? { placeholder: own.placeholder } : {}) });
        const title = own.title || (own.row ? s().name : s().name.replace(/_/g, " "));
        const mark = el("span.mark", { role: "img", title: t("differs from the preset"), "aria-label": t("differs from the preset"), hidden: true }, "●");
        const label = el(own.row ? "label.name" : "label", { for: id }, title, mark);
        const said = el("div.said", { id: `${id}_said` });
        const undo = el("button.reset", { type: "button", hidden: true, "aria-label": `${t("Reset")}: ${title}`, title: t("Reset") });
        undo.addEventListener("click", () => {
            draft.reset(at());
            put(input, shownValue());
            input.focus();
        });
        const shownValue = () => (own.inverse ? !draft.value(at()) : draft.value(at()));

        const changed = () => {
            const value = own.inverse ? !read(s(), input) : read(s(), input);
            draft.set(at(), value);
            if (own.typed) own.typed(value);
        };
        input.addEventListener(input.type === "text" ? "input" : "change", changed);

        const picks = s().type === "path" && /_dir$/.test(s().name);
        const holder = el("div.picked");
        const choose = picks && page.button(t("Choose…"), () => page.folders(holder, input.value, (found) => {
            input.value = found;
            changed();
        }), { "aria-label": `${t("Choose…")} ${title}` });
        const editor = (page.editors || {})[at()];
        const draw = editor && page.button(t(editor.title), () => editor.open(holder, input, (found) => {
            input.value = found;
            changed();
        }), { "aria-label": `${t(editor.title)} ${title}` });
        const line = el("div.line", {}, input, choose, draw, undo);
        const unit = s().unit && !own.row && !own.alone ? el("span.unit", {}, t(s().unit)) : null;
        const range = el("p.range");
        const about = own.row ? el("div.about", {}, el("p.help", {}, page.helped(s())), range) : null;
        const made = el(own.row ? "div.row" : "div.field", { "data-says": "", "data-path": at() },
            el("div.label", {}, label, unit), line, holder, said, about);
        if (!own.row) made.title = page.helped(s());

        const refresh = () => {
            put(input, shownValue());
            const differs = draft.isChanged(at()) && (own.row || !page.own(at()));
            page.show(mark, differs);
            page.show(undo, differs);
            made.classList.toggle("lt-changed", differs);
            const wrong = draft.look.complaints.filter((c) => c.path === at()).map((c) => page.short(c));
            const why = own.alone ? null : page.idle(s());
            input.disabled = Boolean(why);
            made.classList.toggle("lt-idle", Boolean(why));
            const begun = !page.ASKED.includes(at()) || draft.value(at()); // an empty page is asked, not blamed
            const blamed = wrong.length > 0 && Boolean(begun);
            made.classList.toggle("lt-wrong", blamed);
            input.setAttribute("aria-invalid", String(blamed));
            said.classList.toggle("lt-sign", blamed);
            page.write(said, wrong.length ? wrong.join(" ") : why ? `${t("no effect:")} ${why}` : own.hint ? own.hint() || "" : "");
            if (own.row) page.write(range, rangeOf());
        };
        const rangeOf = () => {
            const why = draft.reasons[at()];
            return [page.range(s()), s().source, why ? `${t("preset {value}:", { value: page.shown(draft.base[at()]) })} ${page.said(why)}` : null]
                .filter(Boolean).join(" · ");
        };
        refresh();
        return { box: made, input, refresh, path: at, text: () => `${at()} ${title} ${page.helped(s())} ${s().help}`.toLowerCase() };
    };

    page.helped = (s) => {
        const words = page.words[page.language];
        return (words && words.help && words.help[s.path]) || s.help;
    };

    /** A complaint beside its own field needs not say the path again. */
    page.short = (complaint) => {
        const path = complaint.path;
        const text = page.said(complaint.text);
        const cut = path && (text.startsWith(`${path} = `) || text.startsWith(`${path}: `)) ? text.indexOf(": ") : -1;
        return cut > 0 ? text.slice(cut + 2) : text;
    };

    /** Why a setting has no effect as the others stand; null where it has. */
    page.idle = (s) => {
        const told = page.draft.look.disabled[s.path];
        if (told) return page.said(told);
        if (!s.kinds) return null;
        const kind = page.draft.value(s.kinds.of);
        if (s.kinds.are.includes(kind)) return null;
        return t("belongs to {are}; {of} is {kind}", { are: s.kinds.are.join(", "), of: s.kinds.of, kind });
    };

    // ── folders ──
    page.folders = async (holder, begin, done) => {
        const close = () => page.fill(holder);
        const list = el("ul.folders", {});
        const where = el("strong", {});
        const use = page.button(t("Use this folder"), () => {
            close();
            done(where.textContent);
        }, { kind: "main" });
        const box = el("div.picker", { "data-says": "", role: "group", "aria-label": t("Choose a folder"),
            onkeydown: (e) => e.key === "Escape" && close() },
        el("div.line", {}, where, el("span.grow"), use, page.button(t("Close"), close)), list);
        page.fill(holder, box);
        const item = (text, path, more) => el("li", {}, page.button(text, () => go(path), more || { kind: "plain" }));
        const go = async (path) => {
            const found = await page.ask("GET", `/folders?path=${encodeURIComponent(path || "")}`);
            page.write(where, found.path);
            page.show(use, found.path);
            const up = found.parent !== null && found.path ? [item("↑ ..", found.parent)] : [];
            const base = (folder) => (found.path ? folder.slice(found.path.length).replace(/^[\\/]/, "") : folder);
            page.fill(list, up, found.folders.map((folder) => item(base(folder), folder, { kind: "plain.sign.folder" })),
                el("li.hint", {}, t("{n} pictures here", { n: found.pictures })));
            (list.querySelector("button") || use).focus();
        };
        await go(begin).catch(() => go(""));
    };
})();
