// What runs: progress, curve, samples, log, and the buttons that a person has over it.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);

    page.active = (run) => Boolean(run) && (run.state === "running" || run.state === "paused");

    page.runView = () => {
        const title = el("h3.runtitle");
        const state = el("div.state", { role: "status" });
        const bar = el("div.bar", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": t("Progress") }, el("div.filled"));
        const note = el("div.note", { hidden: true, role: "status" });
        const buttons = controls();
        const memory = el("div.memory");
        const box = el("section.run", { hidden: true, "data-says": "", "aria-label": t("Run") },
            el("div.line.top", {}, title, el("span.grow"), buttons.box), bar, state, note,
            el("div.two", {}, page.curve(), page.samples()),
            page.insight(() => page.status && page.status.run && page.status.run.name, () => page.active(page.status && page.status.run)), page.log(), settingsOf(), memory);
        page.on("status", (status) => {
            const run = status.run;
            page.show(box, run);
            if (!run) return;
            page.write(title, `${run.name} · ${t(run.state)}`);
            const part = run.steps ? Math.min(100, (100 * run.step) / run.steps) : 0;
            const style = `${part.toFixed(1)}%`;
            if (bar.firstChild.style.width !== style) bar.firstChild.style.width = style;
            bar.setAttribute("aria-valuenow", Math.floor(part));
            page.write(state, line(run, part));
            page.write(note, run.note ? page.said(run.note) : "");
            page.show(note, run.note);
            page.write(memory, remembered(run));
            buttons.draw(run);
        });
        return box;
    };

    function line(run, part) {
        const rates = Object.entries(run.rates || {}).map(([name, lr]) => `${name} ${page.number(lr)}`).join(", ");
        return [
            run.steps ? t("step {step} of {steps}", run) : null, run.steps ? `${Math.floor(part)} %` : null,
            run.epochs ? t("epoch {epoch} of {epochs}", { epoch: Math.max(1, Math.ceil(run.epoch - 1e-6)), epochs: page.number(run.epochs) }) : null,
            page.active(run) && run.left !== null ? t("{time} left", { time: page.time(run.left) }) : null,
            t("{time} so far", { time: page.time(run.seconds) }),
            run.images_per_second ? t("{n} images/s", { n: page.number(run.images_per_second) }) : null,
            run.megabytes ? page.megabytes(run.megabytes) : null,
            run.average !== null && run.average !== undefined ? t("loss {n}", { n: page.number(run.average) }) : null,
            rates ? t("rates: {rates}", { rates }) : null,
        ].filter(Boolean).join(" · ");
    }

    function remembered(run) {
        const m = run.memory;
        const kept = run.unchanged === true ? t("model unchanged: yes") : run.unchanged === false ? t("the model was changed; load it again") : "";
        const said = m ? t("memory before {before} · during {during} · after {after}", { before: page.megabytes(m.before),
            during: page.megabytes(m.during), after: page.megabytes(m.after) }) : "";
        return [said, kept].filter(Boolean).join(" · ");
    }

    function controls() {
        const ask = (path, body) => async () => {
            await page.ask("POST", `/run/${path}`, body || {});
            await page.refreshed();
        };
        const pause = page.button(t("Pause"), ask("pause"), { title: t("Gives the model back between two steps: generate, then go on exactly.") });
        const goOn = page.button(t("Continue"), ask("go_on"), { kind: "main" });
        const keep = page.button(t("Stop & save"), ask("stop", { save: true }));
        const lost = () => t("Stop at step {step} without saving?", page.status && page.status.run);
        const stop = page.sure(t("Stop"), lost, t("Yes, stop"), ask("stop", { save: false }), { kind: "danger" });
        const sample = page.button(t("Sample now"), ask("sample"));
        const save = page.button(t("Save now"), ask("save"));
        const holder = el("span", {}, stop);
        const box = el("div.line.controls", {}, sample, save, pause, goOn, keep, holder);
        const draw = (run) => {
            page.show(box, page.active(run));
            page.show(pause, run.state === "running");
            page.show(goOn, run.state === "paused");
            [sample, save].forEach((b) => (b.disabled = run.state !== "running"));
        };
        return { box, draw };
    }

    // ── log ──
    const KEPT = 300;
    page.log = () => {
        const list = el("ol.log", { role: "log", tabindex: 0, "aria-label": t("Log") });
        const box = el("details.fold", {}, el("summary", {}, t("Log")), list);
        let before = "";
        const draw = (status) => {
            const lines = ((status && status.run && status.run.log) || []).slice(-KEPT);
            const key = JSON.stringify([lines.length, lines[lines.length - 1], status && status.run && status.run.id]);
            if (key === before || !box.open) return;
            before = key;
            const low = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
            const marks = { warning: "span.warn.sign", error: "span.refused" };
            page.fill(list, lines.map((l) => el("li", {}, el("time", {}, new Date(l.time * 1000).toLocaleTimeString()), " ",
                el(marks[String(l.level).toLowerCase()] || "span", {}, page.said(l.text)))));
            if (low) list.scrollTop = list.scrollHeight;
        };
        box.addEventListener("toggle", () => draw(page.status));
        page.on("status", draw);
        return box;
    };

    function settingsOf() {
        const list = el("dl.values");
        const box = el("details.fold", { "data-says": "" }, el("summary", {}, t("Settings of this run")), list);
        let shown = null;
        const draw = async () => {
            const run = page.status && page.status.run;
            if (!box.open || !run || shown === run.id) return;
            shown = run.id;
            const entries = await page.ask("GET", "/queue").catch(() => []);
            let values = (entries.find((e) => e.id === run.id) || {}).values;
            if (!values) values = (await page.ask("GET", `/runs/${encodeURIComponent(run.name)}`).catch(() => ({}))).values;
            const rows = Object.entries(values || {}).filter(([, v]) => v !== null).sort();
            page.fill(list, rows.map(([path, value]) => [el("dt", {}, path), el("dd", {}, page.shown(value))]).flat());
        };
        box.addEventListener("toggle", draw);
        page.on("status", draw);
        return box;
    }
})();
