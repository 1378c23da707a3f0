// Block weights on a drawing of the U-Net: a bar for each block, presets, and the text that means the same.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const LEVELS = 3; // blocks of one size of the picture
    let book = null; // what the server knows: ids, lengths of lists, presets

    const known = async (anew) => {
        if (!book || anew) book = page.ask("GET", "/block_presets").catch((error) => {
            book = null;
            throw error;
        });
        return book;
    };
    const shortened = (value) => String(Number(Number(value).toFixed(2)));

    /** {weights: {id: number}, named: ids that the text names, rest: elements behind it}, or null where it is none. */
    function read(text, { blocks, lists, presets }) {
        const [first, ...rest] = String(text || "ALL").split("|");
        const preset = presets.find((one) => one.name === first.trim().toUpperCase() || one.name === first.trim());
        const numbers = (preset ? preset.text : first).replace(/[[\]()]/g, "").split(",").map((word) => (word.trim() ? Number(word) : NaN));
        const named = lists[numbers.length];
        if (!named || numbers.some((n) => !isFinite(n))) return null;
        const weights = Object.fromEntries(blocks.map((id) => [id, 0]));
        named.forEach((id, i) => (weights[id] = numbers[i]));
        return { weights, named, rest };
    }

    /** As short as it says all: in the list that the text had, where that names every block that is on. */
    function write({ weights, named, rest }, { blocks }) {
        const all = blocks.some((id) => weights[id] && !named.includes(id)) ? blocks : named;
        const first = blocks.every((id) => weights[id] === 1) ? "ALL" : all.map((id) => shortened(weights[id])).join(",");
        return [first, ...rest].join("|");
    }

    /**
     * The editor. changed(text): called after each change by hand. given.bare: without a line for the text, for there is one already.
     * Gives {box, put(text), text()}.
     */
    page.blockEditor = (text, changed, given) => {
        const own = given || {};
        let [now, all, value] = [text || "ALL", null, null];
        const bars = {};
        const line = el("input", { type: "text", "aria-label": t("Block weights"), spellcheck: "false", autocomplete: "off" });
        const why = el("p.hint", { role: "status" });
        const chips = el("div.line.prompts", { role: "group", "aria-label": t("Presets of block weights") });
        const drawing = el("div.unet", { role: "group", "aria-label": t("Blocks of the U-Net") });
        const name = el("input", { type: "text", "aria-label": t("Name of the preset"), placeholder: t("Name of the preset") });
        const save = page.button(t("Save"), async () => {
            const numbers = value && value.named.map((id) => shortened(value.weights[id])).join(",");
            await page.ask("PUT", `/block_presets/${encodeURIComponent(name.value.trim())}`, { text: numbers || now });
            name.value = "";
            await load(true);
        });
        const box = el("div.blocks", { "data-says": "" }, own.bare ? null : el("div.line", {}, line), chips, why, drawing,
            el("details.fold", {}, el("summary", {}, t("Keep as a preset")), el("div.line", {}, name, save)));

        const listed = () => all.presets.filter((preset) => preset.weights); // none that are drawn anew for each picture
        const put = (fresh) => {
            now = fresh || "ALL";
            if (document.activeElement !== line) line.value = now;
            if (!all) return;
            value = read(now, all);
            page.write(why, value ? "" : t("These are no plain numbers for 12, 17, 20 or 26 blocks; the bars show them when they are."));
            page.show(why, !value);
            const range = value ? Object.values(value.weights) : [0, 1];
            const [low, high] = [Math.min(0, ...range), Math.max(1, ...range)];
            for (const [id, bar] of Object.entries(bars)) {
                const weight = value ? value.weights[id] : 0;
                Object.assign(bar.input, { min: low, max: high, disabled: !value });
                bar.input.value = weight;
                bar.input.style.setProperty("--lt-part", `${(100 * (weight - low)) / (high - low)}%`);
                page.write(bar.said, value ? shortened(weight) : "–");
                bar.box.classList.toggle("lt-out", Boolean(value) && !value.named.includes(id));
            }
            const same = (preset) => value && !value.rest.length && preset.weights && all.blocks.every((id, i) => preset.weights[i] === value.weights[id]);
            const shown = listed();
            [...chips.children].forEach((chip, i) => chip.setAttribute("aria-pressed", String(Boolean(same(shown[i])))));
        };
        const set = (fresh) => {
            put(fresh);
            if (changed) changed(now);
        };
        const bar = (id, level, side) => {
            const said = el("output", {}, "–");
            const input = el("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": id === "BASE" ? t("BASE, the text encoder") : id });
            input.addEventListener("input", () => {
                value.weights[id] = Number(input.value);
                set(write(value, all));
            });
            const made = el(`div.bar-of.${side}`, { title: id === "BASE" ? t("BASE, the text encoder") : id }, el("span.name", {}, id), input, said);
            made.style.setProperty("--lt-level", level);
            bars[id] = { input, said, box: made };
            return made;
        };
        const load = async (anew) => {
            all = await known(anew);
            const of = (head) => all.blocks.filter((id) => id.startsWith(head));
            const column = (ids, side) => el(`div.column.${side}`, {}, ids.map((id, i) => bar(id, Math.floor(i / LEVELS), side)));
            if (!drawing.firstChild) {
                drawing.append(el("div.beside", {}, bar("BASE", 0, "text")), column(of("IN"), "down"), column(of("OUT").reverse(), "up"), el("div.middle", {}, bar("M00", 0, "mid")));
            }
            page.fill(chips, listed().map((preset) => page.button(preset.name, () => {
                const rest = value ? value.rest : [];
                set([preset.builtin ? preset.name : preset.text, ...rest].join("|")); // others know only the built-in names
                line.value = now;
            }, { kind: "chip", title: preset.text, "aria-pressed": "false" })));
            put(now);
        };
        line.addEventListener("input", () => set(line.value.trim()));
        load(false).catch((error) => page.say(box, error.message));
        return { box, put, text: () => now, input: line };
    };

    /** The editor below a field of "All settings", whose own line is the text. */
    page.editors = { "network.block_weights": { title: "Blocks…", open: (holder, input, done) => {
        if (holder.firstChild) return void page.fill(holder);
        const editor = page.blockEditor(input.value, (text) => done(text), { bare: true });
        input.addEventListener("input", () => editor.put(input.value));
        page.fill(holder, editor.box);
    } } };
})();
