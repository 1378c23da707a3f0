// The room Tools: choose one, say on what, see what would come of it, run it, read its report.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const WAIT = 350; // milliseconds after the last key
    const TITLES = { // words over settings, where their own names say too little
        model: "File", models: "Files", sd_model: "Checkpoint", base: "Checkpoint it was made for", model_org: "Original checkpoint",
        model_tuned: "Fine-tuned checkpoint", difference: "Stored difference", save_to: "Write to", ratios: "Strengths", new_rank: "New rank",
        new_conv_rank: "New rank of convolutions", dynamic_method: "Choose ranks by", dynamic_param: "Keep", dim: "Rank", conv_dim: "Rank of convolutions",
        to: "Write as", only: "Only this part", set: "Entries to write", remove: "Entries to take away", description: "Description",
        activation_text: "Activation text", fill: "Fill in from the file",
    };

    let go = null; // of the room, where it is drawn

    const span = (ranks) => (ranks.length > 1 ? `${ranks[0]}–${ranks[ranks.length - 1]}` : String(ranks[0]));
    const title = (name) => t(name.charAt(0).toUpperCase() + name.slice(1).replace(/-/g, " "));

    /** Goes to the room with a tool and its values; one that only looks begins at once. */
    page.useTool = async (name, values) => {
        page.go("tools");
        await go(name, values);
    };

    /** The button of a file. */
    page.inspectButton = (file) => page.button(t("Inspect"), () => page.useTool("inspect", { model: file }));

    page.room("tools", "Tools", () => {
        const box = el("div.body", { "data-says": "" }, el("p.hint", {}, t("One moment …")));
        const opened = open(box);
        go = async (name, values) => (await opened).use(name, values);
        opened.catch((error) => page.say(box, error.message));
        return box;
    });

    async function open(box) {
        const tools = await page.ask("GET", "/tools");
        const of = (name) => tools.find((tool) => tool.name === name);
        const home = el("div.tool");
        const { result, begin } = outcome();
        let shown = null;
        const chips = tools.map((tool) => page.button(title(tool.name), () => show(tool.name), { kind: "chip", "aria-pressed": "false", title: page.t(tool.about) }));
        const show = (name, values) => {
            const tool = of(name) || tools[0];
            page.kept("tool", tool.name);
            chips.forEach((chip, i) => chip.setAttribute("aria-pressed", String(tools[i] === tool)));
            shown = card(tool, values || page.kept(`tool ${tool.name}`) || {}, begin);
            page.fill(home, shown.box);
            return shown;
        };
        const act = {
            begin, put: (name, values) => show(name, values).focus("description"),
            knows: (name, path) => of(name).rows.some((row) => row.path === path),
            use: async (name, values) => {
                const made = show(name, values);
                if (of(name).light) await made.run();
            },
        };
        result.act = act;
        page.fill(box, el("section.bench", { "aria-label": t("Tools") }, el("div.line.prompts", { role: "group", "aria-label": t("Choose a tool") }, chips)), home, result.element);
        show(page.kept("tool"));
        return act;
    }

    // ── a tool's form ──
    function card(tool, values, begin) {
        let [proposed, tried, asked, timer] = [null, false, 0, null];
        const coming = el("div.coming", { role: "status" });
        const others = el("p.warn.lines", { hidden: true });
        const form = page.rows(tool.rows, values, () => changed(), { control: page.fileControl, titles: TITLES });
        const changed = () => {
            page.kept(`tool ${tool.name}`, form.values());
            clearTimeout(timer);
            timer = setTimeout(() => look().catch((error) => page.say(box, error.message)), WAIT);
        };
        const complain = (lines) => {
            const rest = form.complain(lines);
            page.write(others, rest.map(page.said).join("\n"));
            page.show(others, rest.length);
        };
        async function look() {
            const mine = ++asked;
            const given = form.values();
            const found = await page.ask("POST", `/tools/${encodeURIComponent(tool.name)}/look`, { values: given });
            if (mine !== asked) return;
            if (found.proposed && (!given.save_to || given.save_to === proposed) && found.proposed !== given.save_to && needed()) {
                proposed = found.proposed;
                form.set("save_to", proposed);
                return void (await look());
            }
            complain(found.complaints.filter((line) => tried || line.split(/ = |: /)[0] in given || !/^[a-z_]+: expected/.test(line)));
            page.fill(coming, found.heads.map(headed), comes(found.comes), found.makes.map((made) => el("p", { class: made.there && !given.overwrite ? "lt-warn" : "lt-hint" },
                t(!made.there ? "Will be written: {path}" : given.overwrite ? "Will be replaced: {path}" : "{path} is there already: take another name, or set overwrite", made))));
            page.say(box, "");
        }
        const headed = (head) => (head.error ? el("p.warn.sign.lines", {}, page.said(head.error))
            : el("p.hint", {}, el("strong", {}, head.name), `: ${[head.said, head.forms.join(", "), head.ranks.length ? t("rank {ranks}", { ranks: span(head.ranks) }) : null,
                t("{n} layers", { n: head.layers }), page.bytes(head.bytes)].filter(Boolean).join(" · ")}`));
        const comes = (what) => what && el("p", {}, t("What comes of it:"), " ", [what.ranks.length ? t("rank {ranks}", { ranks: span(what.ranks) }) : null,
            t(what.most ? "at most {size}" : "about {size}", { size: page.bytes(what.bytes) })].filter(Boolean).join(" · "));
        const needed = () => tool.rows.some((row) => row.path === "save_to" && row.basic);
        const run = page.button(t("Run it"), () => start(), { kind: "main" });
        async function start() {
            tried = true;
            const found = await page.ask("POST", `/tools/${encodeURIComponent(tool.name)}/look`, { values: form.values() });
            complain(found.complaints);
            if (found.complaints.length) return;
            await begin(tool.name, form.values());
        }
        const clear = page.button(t("Clear"), () => {
            tool.rows.forEach((row) => form.set(row.path, row.default));
            [proposed, tried] = [null, false];
            complain([]);
            page.fill(coming);
            page.kept(`tool ${tool.name}`, {});
        });
        const box = el("section.bench", { "data-says": "", "aria-label": title(tool.name) }, el("h3", {}, title(tool.name)), el("p.hint", {}, t(tool.about)), form.box, others, coming,
            el("div.line.end", {}, tool.light ? null : el("span.hint", {}, t("Runs when nothing trains.")), clear, run));
        if (Object.keys(values).length) changed();
        return { box, run: () => page.busy(run, start), focus: form.focus };
    }

    // ── what comes of it ──
    function outcome() {
        const name = el("h3");
        const state = el("p.hint", { role: "status" });
        const filled = el("div.filled");
        const bar = el("div.bar", { role: "progressbar", "aria-label": t("Progress"), "aria-valuemin": 0, "aria-valuemax": 100 }, filled);
        const stop = page.button(t("Stop"), async () => {
            await page.ask("POST", "/tools/stop");
        }, { kind: "danger" });
        const report = el("div.report", { "data-says": "" });
        const element = el("section.bench.outcome", { hidden: true, "aria-label": t("Report"), "data-says": "" }, el("div.line", {}, name, el("span.grow"), stop), state, bar, report);
        const result = { element, act: null };
        const ended = new Set(); // ids of what was drawn to its end
        let shown = "";
        const progress = (brief) => {
            const share = brief.of ? (100 * brief.done) / brief.of : 0;
            filled.style.width = `${share.toFixed(1)}%`;
            bar.setAttribute("aria-valuenow", String(Math.round(share)));
            const left = brief.left === null ? "" : ` · ${t("{time} left", { time: page.time(brief.left) })}`;
            page.write(state, brief.of ? t("layer {done} of {of}", brief) + left : t("One moment …"));
        };
        const draw = (task) => {
            page.write(name, `${title(task.name)} · ${t(task.state)}`);
            if (task.state !== "working") {
                page.write(state, t("in {time}", { time: page.time(task.seconds) }));
                page.fill(report, page.report(task, result.act));
            } else page.fill(report);
        };
        const take = async (brief) => {
            page.show(element, brief);
            if (!brief || ended.has(brief.id)) return; // what was asked before the end may be answered after it
            const working = brief.state === "working";
            page.show(stop, working);
            page.show(bar, working);
            if (working) progress(brief);
            const key = `${brief.id} ${brief.state}`;
            if (key === shown) return;
            shown = key;
            const task = await page.ask("GET", "/tools/now");
            if (ended.has(task.id)) return;
            if (task.state !== "working") ended.add(task.id);
            page.show(stop, task.state === "working");
            page.show(bar, task.state === "working");
            draw(task);
        };
        const heed = (status) => take(status.tool || null).catch((error) => {
            shown = "";
            page.say(report, error.message);
        });
        page.on("status", (status) => "tool" in status && heed(status));
        if (page.status) heed(page.status);
        const begin = async (tool, values) => {
            await page.ask("POST", `/tools/${encodeURIComponent(tool)}`, { values });
            await page.refreshed();
            element.scrollIntoView({ block: "nearest" });
        };
        return { result, begin };
    }
})();
