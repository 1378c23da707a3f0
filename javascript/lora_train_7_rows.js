// A form of declared settings that are not a training's: those of a tool, of a sheet.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const LONG = 160; // characters of a help that a narrow field does not hold well
    let count = 0;

    const same = (a, b) => JSON.stringify(a === undefined ? null : a) === JSON.stringify(b === undefined ? null : b);
    const written = (value) => (value === null || value === undefined ? "" : Array.isArray(value) ? value.join(", ") : String(value));

    /** Several of what there is to choose from: a switch for each. */
    function several(row, given, changed) {
        let chosen = [];
        const chips = row.choices.map((c) => el("button.button.chip", { type: "button", "aria-pressed": "false", onclick: () => {
            put(chosen.includes(c) ? chosen.filter((other) => other !== c) : row.choices.filter((other) => other === c || chosen.includes(other)));
            changed();
        } }, String(c)));
        const put = (value) => {
            chosen = [...(value || [])];
            chips.forEach((chip, i) => chip.setAttribute("aria-pressed", String(chosen.includes(row.choices[i]))));
        };
        const box = el("div.line.prompts", { ...given, role: "group", "aria-label": row.name, tabindex: "-1" }, chips);
        return { input: box, box, wide: true, put, read: () => chosen };
    }

    /** Several texts, one a line. */
    function lines(given) {
        const input = el("textarea", { rows: 3, autocomplete: "off", spellcheck: "false", ...given });
        return { input, wide: true, put: (value) => (input.value = (value || []).join("\n")), read: () => input.value.split("\n").filter((line) => line.trim()) };
    }

    /** A box, a list to choose from, or a line to type in: {input, read(), put(value)}. */
    function plain(row, given, changed) {
        if (row.type === "lines") return lines(given);
        if (row.type === "list" && row.choices && row.choices.length) return several(row, given, changed);
        if (row.type === "bool" && !row.optional) {
            const input = el("input", { type: "checkbox", ...given });
            return { input, read: () => input.checked, put: (value) => (input.checked = value === true) };
        }
        if (row.type === "bool" || (row.choices && row.choices.length)) {
            const choices = row.type === "bool" ? [true, false] : row.choices;
            const empty = row.optional ? [el("option", { value: "" }, t("empty"))] : [];
            const input = el("select", given, empty, choices.map((c) => el("option", { value: String(c) }, row.type === "bool" ? page.shown(c) : String(c))));
            return { input, put: (value) => (input.value = value === null || value === undefined ? "" : String(value)),
                read: () => (input.value === "" && row.optional ? null : choices.find((c) => String(c) === input.value)) };
        }
        const number = row.type === "int" || row.type === "float";
        const input = el("input", { type: "text", inputmode: number ? "decimal" : null, autocomplete: "off", spellcheck: "false",
            placeholder: row.default === null || row.default === "" ? null : page.shown(row.default), ...given });
        return { input, put: (value) => (input.value = written(value)), read: () => page.draft.read(row, input.value) };
    }

    /** In the page's language; some settings are a training's as well, and told there. */
    page.helpedIn = (help) => {
        if (t(help) !== help) return t(help);
        const same = Object.values(page.draft.settings).find((s) => s.help === help);
        return same ? page.helped(same) : page.said(help);
    };

    /** One setting: label, control, complaint, help. */
    function made(row, given, changed) {
        const id = `lt_rows_${++count}`;
        const wish = { id, "aria-describedby": `${id}_said` };
        const own = (given.control && given.control(row, wish, changed)) || plain(row, wish, changed);
        const title = (given.titles && given.titles[row.path]) || row.name.replace(/_/g, " ");
        const said = el("div.said", { id: `${id}_said`, role: "status" });
        const folded = !row.basic;
        const box = el(folded ? "div.row" : own.wide || row.help.length > LONG ? "div.field.wide" : "div.field", { "data-path": row.path },
            el("div.label", {}, el(folded ? "label.name" : "label", { for: own.input.id || id }, t(title)),
                row.unit && !folded ? el("span.unit", {}, t(row.unit)) : null),
            own.box || el("div.line", {}, own.input), said,
            el("div.about", {}, el(folded ? "p.help" : "p.hint", {}, page.helpedIn(row.help)), folded ? el("p.range", {}, page.range(row)) : null));
        own.input.addEventListener(["text", "textarea"].includes(own.input.type) ? "input" : "change", changed);
        const say = (text) => {
            page.write(said, text);
            said.classList.toggle("lt-sign", Boolean(text));
            box.classList.toggle("lt-wrong", Boolean(text));
            own.input.setAttribute("aria-invalid", String(Boolean(text)));
        };
        const read = () => {
            const value = own.read();
            return value === null && !row.optional ? row.default : value;
        };
        const put = (value) => own.put(value === undefined ? row.default : value);
        return { row, box, say, read, put, focus: () => own.input.focus() };
    }

    /**
     * A form. declared: rows as the server writes them (path, name, group, type, choices, low, high, unit, default, optional, help, basic).
     * values: {path: value} to begin with. changed(values): called after each change by hand.
     * given.control(row, attributes, changed): null, or another control {input, box, wide, read(), put(value)}, whose input takes the attributes.
     * given.titles: {path: words over it}. given.more: words over what is folded. given.group(name): title of a group.
     *
     * Gives {box, values(), set(path, value), complain(list), focus(path)}: values() are those that differ from their defaults;
     * complain takes sentences of the server ("path = value: …"), puts each beside its field, and gives back those that belong to none.
     */
    page.rows = (declared, values, changed, given) => {
        const own = given || {};
        const told = () => changed && changed(read());
        const fields = declared.map((row) => made(row, own, told));
        const at = (path) => fields.find((f) => f.row.path === path);
        const basic = fields.filter((f) => f.row.basic);
        const rest = fields.filter((f) => !f.row.basic);
        const groups = [...new Set(rest.map((f) => f.row.group))];
        const named = (group) => t((own.group && own.group(group)) || group.charAt(0).toUpperCase() + group.slice(1));
        const fold = rest.length ? el("details.fold", {}, el("summary", {}, t(own.more || "More settings")),
            groups.map((group) => el("section", {}, el("h4", {}, named(group)), rest.filter((f) => f.row.group === group).map((f) => f.box)))) : null;
        const box = el("div.rows", {}, basic.length ? el("div.fields", {}, basic.map((f) => f.box)) : null, fold);
        if (fold && !basic.length) fold.open = true;

        const read = () => Object.fromEntries(fields.map((f) => [f.row.path, f.read()])
            .filter(([path, value]) => !same(value, at(path).row.default)));
        const complain = (list) => {
            const lines = list.map((line) => (typeof line === "string" ? line : line.text));
            const of = (line) => at(line.split(/ = |: /)[0]);
            fields.forEach((f) => f.say(lines.filter((line) => of(line) === f).map((text) => page.short({ path: f.row.path, text })).join(" ")));
            if (fold && rest.some((f) => f.box.classList.contains("lt-wrong"))) fold.open = true;
            return lines.filter((line) => !of(line));
        };
        fields.forEach((f) => f.put(values ? values[f.row.path] : undefined));
        return { box, values: read, complain, set: (path, value) => at(path) && at(path).put(value), focus: (path) => at(path) && at(path).focus() };
    };
})();
