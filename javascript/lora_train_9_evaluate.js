// Evaluate: files, axes, prompts and scores of a sheet, what comes of them, and the sheets that there are.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const WAIT = 400; // milliseconds after the last key
    const OWN = ["network_weights", "x", "y", "z", "prompt", "analyze", "others"]; // of the plan, not among the rows
    const SHOWN = ["sampler", "seed", "steps", "cfg", "width", "height", "score"];
    const TITLES = { sampler: "Sampler", seed: "Seed", steps: "Steps", cfg: "CFG scale", width: "Width", height: "Height", score: "Score and suggest" };
    const SIDES = { x: "Across (X)", y: "Down (Y)", z: "Sheets (Z)" };
    const { stem, STRENGTHS, SETTING, filesField, axisField, blocksField, blockRow } = page.sheetFields;
    let goTo = null; // what the room is to show when it is next drawn

    /** Opens the room: with a sheet, by its name, or with the files of a run. */
    page.evaluate = (what) => {
        goTo = what;
        page.go("evaluate");
        page.tell("evaluate");
    };

    function room() {
        const box = el("div.body.evaluate", { "data-says": "" });
        const form = el("section.sheet-plan", { "data-says": "", "aria-label": t("What to draw") });
        const earlier = earlierView((name) => view.open(name), (asked, name) => take(asked, name), (name) => view.shown() === name && view.open(null));
        const view = page.sheetView((asked, name) => take(asked, name));
        let fill = null;
        const take = (asked, name) => fill && fill(asked, name);
        const heed = async () => {
            if (!fill) return; // it is opened below
            const what = goTo;
            goTo = null;
            if (what && what.sheet) await view.open(what.sheet);
            if (what && what.run) fill({ run: what.run, values: {} });
            if (what) box.querySelector(what.sheet ? ".lt-sheet" : ".lt-sheet-plan").scrollIntoView();
        };
        const open = async () => {
            const offered = await page.ask("GET", "/axes");
            fill = planForm(form, offered, async (name) => {
                await page.refreshed();
                await view.open(name);
                view.box.scrollIntoView({ block: "nearest" });
            });
            const last = page.status && page.status.sheet ? page.status.sheet.name : page.kept("sheet");
            if (!goTo && last) await view.open(last).catch(() => view.open(null));
            await heed();
        };
        page.on("evaluate", () => heed().catch((error) => page.say(box, error.message)));
        page.fill(form, el("p.hint", {}, t("One moment …")));
        page.fill(box, form, view.box, earlier);
        open().catch((error) => page.say(box, error.message));
        return box;
    }

    // ── the form ──
    function planForm(form, offered, drawn) {
        const kept = page.kept("plan") || {};
        const plan = { kind: "axes", files: [], x: { name: "strength", words: STRENGTHS }, y: { name: "", words: "" }, z: { name: "", words: "" },
            blocks: "17ALL", off: "0", direction: "off", prompt: "", name: "", rows: { score: true }, ...kept };
        let [timer, asked] = [null, 0];

        // what is drawn: a sheet of axes, or each block alone
        const kinds = el("div.line.prompts", { role: "group", "aria-label": t("Kind of sheet") });
        const KINDS = [["axes", t("Axes")], ["blocks", t("Blocks, one by one")]];
        kinds.append(...KINDS.map(([id, label]) => page.button(label, () => {
            plan.kind = id;
            refresh();
            changed();
        }, { kind: "chip", "data-kind": id })));

        const files = filesField(plan, offered, () => {
            refresh();
            changed();
        });
        const axes = Object.entries(SIDES).map(([side, title]) => axisField(plan[side], t(title), side, offered, () => changed()));
        const analyzer = blocksField(plan, () => changed());
        const prompt = el("textarea", { rows: 2, id: "lt_sheet_prompt", spellcheck: "false", placeholder: t("one prompt a line; behind it --n negative, --d seed, --s steps, --w and --h size") });
        const taken = page.webui() ? page.button(t("Take that of txt2img"), () => {
            const host = window.gradioApp ? window.gradioApp() : document;
            const found = host.querySelector("#txt2img_prompt textarea");
            prompt.value = plan.prompt = found ? found.value.replace(/\s*\n\s*/g, " ") : "";
            changed();
        }) : null;
        prompt.addEventListener("input", () => {
            plan.prompt = prompt.value;
            changed();
        });
        const declared = offered.settings.filter((row) => !OWN.includes(row.path)).map((row) => ({ ...row, basic: SHOWN.includes(row.path) }));
        declared.sort((a, b) => SHOWN.indexOf(a.path) - SHOWN.indexOf(b.path));
        const rows = page.rows(declared, plan.rows, (values) => {
            plan.rows = values;
            changed();
        }, { control: blockRow, titles: TITLES });
        const name = el("input", { type: "text", id: "lt_sheet_name", autocomplete: "off", spellcheck: "false" });
        name.addEventListener("input", () => (plan.name = name.value.trim()));
        const told = el("p.numbers", { role: "status" });
        const wrong = el("ul.complaints");
        const start = page.button(t("Draw the sheet"), async () => {
            const chosen = plan.name || (await free(usual()));
            await page.ask("POST", `/sheets/${encodeURIComponent(chosen)}`, posted());
            await drawn(chosen);
        }, { kind: "main" });

        const run = () => (offered.runs.find((one) => one.files.includes(plan.files[0])) || {}).name || null;
        const sweeps = () => plan.kind === "axes" && ["x", "y", "z"].some((side) => plan[side].name.includes("."));
        const posted = () => {
            const values = { ...plan.rows, network_weights: plan.files, prompt: plan.prompt };
            if (plan.kind === "blocks") Object.assign(values, analyzer.values());
            else for (const side of ["x", "y", "z"]) if (plan[side].name) values[side] = plan[side].words ? `${plan[side].name}: ${plan[side].words}` : plan[side].name;
            return { values, run: run(), job: sweeps() && !run() ? page.draft.posted() : {} };
        };
        const usual = () => [run() || (plan.files[0] && stem(plan.files[0])) || (page.draft.value("output.output_name")), ...(plan.kind === "blocks" ? ["blocks"]
            : ["x", "y", "z"].map((side) => plan[side].name.split(".").pop()).filter(Boolean))].filter(Boolean).join("-").replace(/[\\/:*?"<>|]/g, "_");
        const free = async (begin) => { // a sheet of another plan keeps its name; of the same plan it is gone on with
            const names = (await page.ask("GET", "/sheets")).map((one) => one.name);
            const words = ({ values, job, run: of }) => JSON.stringify([Object.entries(values).sort(), Object.entries(job || {}).sort(), of]);
            const mine = words(posted());
            for (let i = 1; ; i++) {
                const name = i === 1 ? begin : `${begin}-${i}`;
                if (!names.includes(name)) return name;
                const { asked } = await page.ask("GET", `/sheets/${encodeURIComponent(name)}`);
                if (asked && asked.what === "plan" && words(asked) === mine) return name;
            }
        };
        const ready = () => (plan.files.length || sweeps()) && (plan.prompt.trim() || plan.rows.from_file || ["x", "y", "z"].some((side) => plan[side].name === "prompt" && plan[side].words));

        const refresh = () => {
            [...kinds.children].forEach((chip) => chip.setAttribute("aria-pressed", String(chip.dataset.kind === plan.kind)));
            axes.forEach((axis) => page.show(axis.box, plan.kind === "axes"));
            page.show(analyzer.box, plan.kind === "blocks");
            files.refresh();
            if (document.activeElement !== prompt) prompt.value = plan.prompt;
            name.value = plan.name;
        };
        const changed = () => {
            page.kept("plan", plan);
            name.placeholder = usual();
            clearTimeout(timer);
            timer = setTimeout(look, WAIT);
        };
        const look = async () => {
            const mine = ++asked;
            const complain = (list) => page.fill(wrong, rows.complain(list).map((line) => el("li.sign", {}, page.said(line))));
            start.disabled = true;
            if (!ready()) {
                complain([]);
                return page.write(told, plan.files.length || sweeps() ? t("Write a prompt to draw.") : t("Choose LoRA files, or a run whose files they are."));
            }
            let found;
            try {
                found = await page.ask("POST", `/sheets/${encodeURIComponent(plan.name || usual())}/look`, posted());
            } catch (error) {
                found = { complaints: error.message.split("\n") };
            }
            if (mine !== asked) return null;
            complain(found.complaints);
            start.disabled = found.complaints.length > 0;
            if (found.complaints.length) return page.write(told, "");
            const sizes = found.axes.map((axis) => axis.values.length).join(" × ");
            const cells = found.axes.length > 1 ? t("{sizes} = {n} cells", { sizes, n: found.cells }) : found.cells > 1 ? t("{n} cells", { n: found.cells }) : t("1 cell");
            return page.write(told, [cells, t("{n} pictures to draw at most", { n: found.pictures }),
                found.runs ? t("{n} runs to train", { n: found.runs }) : null, found.seconds === null ? null : t("about {time}", { time: page.time(found.seconds) })].filter(Boolean).join(" · "));
        };

        page.fill(form, el("div.line.top", {}, el("h3", {}, t("What to draw")), el("span.grow"), kinds), files.box,
            el("div.axes", {}, axes.map((axis) => axis.box)), analyzer.box,
            el("div.field", {}, el("div.label", {}, el("label", { for: "lt_sheet_prompt" }, t("Prompts"))), el("div.line", {}, prompt, taken)), rows.box, wrong,
            el("div.line.end", {}, told, el("span.grow"), el("span.named", {}, el("label", { for: "lt_sheet_name" }, t("Name")), name), start));
        const anew = async () => { // a run may have ended since
            Object.assign(offered, await page.ask("GET", "/axes"));
            files.refresh();
        };
        page.on("room", (id) => id === "evaluate" && anew().catch(() => {}));

        /** Puts a plan into it, as it was asked for. */
        const fill = async ({ values, run: of }, chosen) => {
            const listed = (value) => (Array.isArray(value) ? value : value ? String(value).split(/,\s*/) : []);
            const axis = (text) => {
                const [head, ...rest] = String(text || "").split(":");
                return { name: head.trim(), words: rest.join(":").trim() };
            };
            if (of && !offered.runs.some((one) => one.name === of)) await anew();
            const known = of && offered.runs.find((one) => one.name === of);
            plan.files = listed(values.network_weights).length ? listed(values.network_weights) : known ? [...known.files] : plan.files;
            plan.name = chosen || "";
            if (values.prompt) plan.prompt = values.prompt;
            if (Object.keys(values).length) {
                plan.kind = values.analyze || values.others !== undefined ? "blocks" : "axes";
                for (const side of ["x", "y", "z"]) Object.assign(plan[side], plan.kind === "axes" ? axis(values[side]) : {});
                analyzer.put(values);
                plan.rows = Object.fromEntries(declared.filter((row) => row.path in values).map((row) => [row.path, values[row.path]]));
                declared.forEach((row) => rows.set(row.path, plan.rows[row.path]));
            }
            axes.forEach((one) => one.refresh());
            refresh();
            changed();
            if (!plan.prompt && of) {
                const { samples = [] } = await page.ask("GET", `/runs/${encodeURIComponent(of)}`).catch(() => ({}));
                plan.prompt = [...new Set(samples.map((one) => one.prompt))].slice(0, 2).join("\n");
                refresh();
                changed();
            }
        };
        if (!plan.files.length && offered.runs.length) fill({ run: offered.runs[0].name, values: {} }).catch(() => {});
        refresh();
        changed();
        return fill;
    }

    // ── earlier ones ──
    function earlierView(open, take, gone) {
        const list = el("ul.entries");
        const box = el("details.fold.runs", { "data-says": "" }, el("summary", {}, t("Earlier sheets")), list);
        const row = (sheet) => el("li.entry", { "data-says": "" }, el("div.line", {}, el("strong", {}, sheet.name),
            el("span.hint", {}, [t(sheet.state), page.clock(sheet.when)].join(" · ")), el("span.grow"),
            page.button(t("Open"), async () => {
                await open(sheet.name);
                box.parentElement.querySelector(".lt-sheet").scrollIntoView();
            }), page.button(t("Use its plan"), async () => {
                const { asked } = await page.ask("GET", `/sheets/${encodeURIComponent(sheet.name)}`);
                if (!asked) throw new Error(t("It was drawn on the command line, and its plan is not known here."));
                take(asked, "");
            }), sheet.state === "drawing" ? null : page.sure(t("Delete"), t("Delete its pictures, and LoRAs that were trained for it?"), t("Yes, delete"), async () => {
                await page.ask("DELETE", `/sheets/${encodeURIComponent(sheet.name)}`);
                await gone(sheet.name);
                await draw();
            })), sheet.suggestion ? el("p.hint", {}, page.suggestion(sheet.suggestion)) : null);
        const draw = async () => {
            const sheets = await page.ask("GET", "/sheets");
            page.fill(list, sheets.length ? sheets.map(row) : el("li.hint", {}, t("No sheet was drawn yet.")));
        };
        let state = "";
        box.addEventListener("toggle", () => box.open && draw().catch((error) => page.say(list, error.message)));
        page.on("status", ({ sheet }) => {
            const fresh = sheet ? `${sheet.name} ${sheet.state}` : "";
            if (fresh !== state && box.open) draw().catch(() => {});
            state = fresh;
        });
        return box;
    }

    page.room("evaluate", "Evaluate", room);
})();
