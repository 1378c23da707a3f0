// The fields of a sheet's plan: files, axes, blocks one by one, block weights.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const SETTING = "a training setting"; // an axis whose path is still to be typed
    const STRENGTHS = "0, 0.4-1.2:0.2";
    const stem = (file) => file.split(/[\\/]/).pop().replace(/\.safetensors$/, "");

    /** Block weights of a plan have their editor. */
    function blockRow(row, wish, changed) {
        if (row.path !== "block_weights") return null;
        const input = el("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder: "ALL", ...wish });
        const holder = el("div.picked");
        let editor = null;
        const open = page.button(t("Blocks…"), () => {
            if (editor) return void (page.fill(holder), (editor = null));
            editor = page.blockEditor(input.value, (text) => {
                input.value = text;
                changed();
            }, { bare: true });
            page.fill(holder, editor.box);
        });
        input.addEventListener("input", () => editor && editor.put(input.value));
        return { input, box: el("div", {}, el("div.line", {}, input, open), holder), read: () => input.value.trim() || null, put: (value) => (input.value = value || "") };
    }

    function filesField(plan, offered, changed) {
        const chips = el("div.line.prompts", { role: "group", "aria-label": t("LoRA files") });
        const every = el("select", { id: "lt_sheet_files" });
        let listed = "";
        const list = () => {
            const fresh = JSON.stringify([offered.runs, offered.files]);
            if (fresh === listed || document.activeElement === every) return;
            listed = fresh;
            page.fill(every, el("option", { value: "" }, t("Choose…")),
                offered.runs.length ? el("optgroup", { label: t("Runs, with all their files") }, offered.runs.map((one) => el("option", { value: `run ${one.name}` }, `${one.name} (${one.files.length})`))) : null,
                offered.files.length ? el("optgroup", { label: t("LoRA files") }, offered.files.map((file) => el("option", { value: file, title: file }, stem(file)))) : null);
        };
        const path = el("input", { type: "text", "aria-label": t("Path of a file or folder"), placeholder: t("Path of a file or folder"), autocomplete: "off", spellcheck: "false" });
        const add = (files) => {
            plan.files = [...new Set([...plan.files, ...files])];
            changed();
        };
        every.addEventListener("change", () => {
            const value = every.value;
            every.value = "";
            const run = offered.runs.find((one) => `run ${one.name}` === value);
            if (run) plan.files = [];
            add(run ? run.files : value ? [value] : []);
        });
        const typed = () => {
            if (path.value.trim()) add([path.value.trim()]);
            path.value = "";
        };
        path.addEventListener("keydown", (event) => event.key === "Enter" && typed());
        const chip = (file) => page.button(`${stem(file)} ×`, () => {
            plan.files = plan.files.filter((other) => other !== file);
            changed();
        }, { kind: "chip", title: file, "aria-label": t("Leave out {file}", { file: stem(file) }) });
        const none = () => page.button(t("Leave out all"), () => {
            plan.files = [];
            changed();
        }, { kind: "plain" });
        const refresh = () => {
            list();
            page.fill(chips, plan.files.map(chip), plan.files.length > 1 ? none() : null);
        };
        const box = el("div.field", { "data-says": "" }, el("div.label", {}, el("label", { for: "lt_sheet_files" }, t("LoRA files"))), el("div.line", {}, every, path, page.button(t("Add"), typed)), chips);
        return { box, refresh };
    }

    function axisField(axis, title, side, offered, changed) {
        const id = `lt_axis_${side}`;
        const auto = { x: t("strength"), y: t("files or prompts, where there are several"), z: t("what is left") }[side];
        const known = (name) => offered.axes.find((one) => one.name === name);
        const choose = el("select", { id }, el("option", { value: "" }, auto), offered.axes.map((one) => el("option", { value: one.name }, t(one.title))), el("option", { value: SETTING }, t("A training setting…")));
        const setting = el("input", { type: "text", list: `${id}_paths`, placeholder: "network.dim", "aria-label": `${title}: ${t("setting")}`, autocomplete: "off", spellcheck: "false", hidden: true });
        const paths = el("datalist", { id: `${id}_paths` }, Object.keys(page.draft.settings).map((path) => el("option", { value: path })));
        const words = el("input", { type: "text", "aria-label": `${title}: ${t("values")}`, autocomplete: "off", spellcheck: "false" });
        const hint = el("p.hint");
        const holder = el("div.picked");
        let editor = null;
        const blocks = page.button(t("Blocks…"), () => {
            if (editor) return void (page.fill(holder), (editor = null));
            editor = page.blockEditor("ALL", null);
            const add = page.button(t("Add as a value"), () => {
                words.value = [words.value.trim(), editor.text()].filter(Boolean).join("; ");
                typed();
            });
            return page.fill(holder, editor.box, el("div.line.end", {}, add));
        }, { hidden: true });
        const typed = () => {
            axis.words = words.value.trim();
            changed();
        };
        const refresh = () => {
            const kind = known(axis.name);
            const own = !kind && axis.name;
            choose.value = own ? SETTING : axis.name;
            page.show(setting, choose.value === SETTING);
            if (own && axis.name !== SETTING) setting.value = axis.name;
            if (words.value !== axis.words) words.value = axis.words;
            page.show(words, axis.name);
            words.placeholder = kind ? kind.usual || "" : "4, 8, 16";
            page.write(hint, kind ? t(kind.help) : own ? t("each value is a run of its own, and its file the cell's") : "");
            page.show(blocks, axis.name === "block_weights");
            if (axis.name !== "block_weights") {
                page.fill(holder);
                editor = null;
            }
        };
        choose.addEventListener("change", () => {
            Object.assign(axis, { name: choose.value === SETTING ? setting.value.trim() || "network.dim" : choose.value, words: choose.value === "strength" ? STRENGTHS : "" });
            refresh();
            changed();
        });
        setting.addEventListener("input", () => {
            axis.name = setting.value.trim() || SETTING;
            changed();
        });
        words.addEventListener("input", typed);
        const box = el("div.field", {}, el("div.label", {}, el("label", { for: id }, title)), el("div.line", {}, choose, setting, words, blocks), paths, hint, holder);
        refresh();
        return { box, refresh };
    }

    /** The Effective Block Analyzer: each block alone off, or alone on. */
    function blocksField(plan, changed) {
        const ids = el("input", { type: "text", id: "lt_analyze", list: "lt_analyze_lists", autocomplete: "off", spellcheck: "false", placeholder: "17ALL" });
        const lists = el("datalist", { id: "lt_analyze_lists" }, ["12ALL", "17ALL", "20ALL", "26ALL"].map((value) => el("option", { value })));
        const to = el("input", { type: "text", id: "lt_analyze_to", autocomplete: "off", spellcheck: "false", placeholder: "0" });
        const ways = el("select", { id: "lt_analyze_way" }, el("option", { value: "off" }, t("all on, one block turned to")), el("option", { value: "on" }, t("all off, one block turned to")));
        const read = () => {
            Object.assign(plan, { blocks: ids.value.trim(), off: to.value.trim(), direction: ways.value });
            changed();
        };
        ways.addEventListener("change", () => {
            to.value = ways.value === "on" ? "1" : "0";
            read();
        });
        ids.addEventListener("input", read);
        to.addEventListener("input", read);
        const named = (id, title, ...inside) => el("div.field", {}, el("div.label", {}, el("label", { for: id }, title)), el("div.line", {}, ...inside));
        const box = el("div.axes", { hidden: true }, named("lt_analyze", t("Blocks"), ids, lists), named("lt_analyze_way", t("Direction"), ways), named("lt_analyze_to", t("Strengths"), to));
        const show = () => {
            [ids.value, to.value, ways.value] = [plan.blocks, plan.off, plan.direction];
        };
        const values = () => {
            const x = `block_strength: ${plan.off || (plan.direction === "on" ? "1" : "0")}`;
            return plan.direction === "on" ? { x, y: `block_id: ${plan.blocks || "17ALL"}`, others: 0 } : { x, analyze: plan.blocks || "17ALL" };
        };
        const put = (given) => {
            if (given.analyze || given.others !== undefined) {
                const alone = !given.analyze;
                Object.assign(plan, { direction: alone ? "on" : "off", blocks: alone ? String(given.y || "").split(":").slice(1).join(":").trim() : given.analyze,
                    off: String(given.x || "").split(":").slice(1).join(":").trim() });
            }
            show();
        };
        show();
        return { box, values, put };
    }

    page.sheetFields = { stem, STRENGTHS, SETTING, filesField, axisField, blocksField, blockRow };
})();
