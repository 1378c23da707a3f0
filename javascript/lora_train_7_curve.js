// The curves: loss, raw and smoothed, on the left axis; on the right one what a person chooses to see beside it.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const HEIGHT = 230;
    const FIRST = ["step", "loss", "average", "lr"]; // columns of a server that does not name them
    const WHOLE = [0, 1, 2, 3, 4, 5, 6].flatMap((n) => [1, 2, 5].map((m) => m * 10 ** n)); // steps between ticks
    const HELD = "loss/validation/average"; // seldom there: at most once in some steps
    const DASHES = [[6, 4], [2, 3], [10, 3, 2, 3]];

    function colour(name, otherwise) {
        return getComputedStyle(page.root).getPropertyValue(name).trim() || otherwise;
    }

    /** What can stand beside the loss: {id, title, lines: [[column, label]]}, of the columns that there are. */
    function sorts(columns) {
        const has = (name) => columns.includes(name);
        const parts = columns.filter((name) => name.startsWith("lr/"));
        const rate = t("learning rate");
        return [
            { id: "rates", title: rate, lines: parts.length ? parts.map((name) => [name, `${rate} ${name.slice(3)}`]) : [["lr", rate]] },
            { id: "gradient", title: t("gradient norm"), lines: [["norm", t("gradient norm")]] },
            { id: "weights", title: t("weight norm"), lines: [["max_norm/average_key_norm", t("weight norm, average")], ["max_norm/max_key_norm", t("weight norm, largest")]] },
            { id: "scaled", title: t("layers scaled down"), lines: [["max_norm/keys_scaled", t("layers scaled down")]] },
            { id: "memory", title: t("memory"), unit: page.megabytes, lines: [["megabytes", t("memory")]] },
        ].map((sort) => ({ ...sort, lines: sort.lines.filter(([name]) => has(name)) })).filter((sort) => sort.lines.length);
    }

    page.curve = () => {
        const home = el("div.plot", { role: "img" });
        const wait = el("p.hint", {}, t("The curve begins with the first steps."));
        const choice = el("select", { id: "lt_beside" });
        const chooser = el("div.line.beside", { hidden: true }, el("label", { for: "lt_beside" }, t("Beside the loss")), choice);
        const box = el("div.curve", {}, chooser, home, wait);
        let points = [];
        let columns = FIRST;
        let of = null;
        let plot = null;
        let shape = "";

        /** Parts that all have one rate are one line. */
        const alike = () => {
            const at = columns.map((name, i) => (name.startsWith("lr/") ? i : -1)).filter((i) => i >= 0);
            return points.every((p) => at.every((i) => p[i] === p[at[0]]));
        };

        const chosen = () => {
            const all = sorts(alike() ? columns.filter((name) => !name.startsWith("lr/")) : columns);
            return all.find((sort) => sort.id === choice.value) || (choice.value === "none" ? null : all[0] || null);
        };

        /** The chooser offers what the run has; a sort without a single number yet is not offered. */
        const offer = () => {
            const some = (name) => points.some((p) => p[columns.indexOf(name)] > 0);
            const all = sorts(columns).filter((sort) => sort.lines.some(([name]) => some(name)));
            const key = JSON.stringify(all.map((sort) => sort.id));
            if (choice.dataset.key === key) return;
            choice.dataset.key = key;
            const wanted = choice.value || page.kept("beside") || "rates";
            page.fill(choice, all.map((sort) => el("option", { value: sort.id }, sort.title)), el("option", { value: "none" }, t("nothing")));
            choice.value = wanted === "none" || all.some((sort) => sort.id === wanted) ? wanted : (all[0] || { id: "none" }).id;
        };
        choice.addEventListener("change", () => {
            page.kept("beside", choice.value);
            draw();
        });

        /** What the legend says where nothing is pointed at: the last values. */
        const last = (u, v, i) => (v === null || v === undefined ? u.data[i].filter((x) => x !== null).pop() : v);

        const options = (width, sort) => {
            const [text, line] = [colour("--lt-text", "#222"), colour("--lt-line", "#ccc")];
            const axis = { stroke: text, grid: { stroke: line, width: 0.5 }, ticks: { stroke: line, width: 0.5 }, font: "11px sans-serif" };
            const value = (u, v, i) => page.number(last(u, v, i));
            const said = sort && sort.unit ? (u, v, i) => sort.unit(last(u, v, i)) : value;
            const ticks = (u, splits) => splits.map((v) => page.number(v));
            const colours = ["--lt-second", "--lt-third", "--lt-fourth"].map((name) => colour(name, "#2a7ab0"));
            const beside = (sort ? sort.lines : []).map(([, label], i) => ({ label, stroke: colours[i % 3], width: 1.5, dash: DASHES[i % 3],
                scale: "right", points: { show: false }, value: said }));
            return {
                width, height: HEIGHT, cursor: { drag: { x: true, y: false } },
                scales: { x: { time: false }, right: { range: (u, low, high) => [0, high ? high * 1.1 : 1] } },
                axes: [{ ...axis, size: 30, incrs: WHOLE }, { ...axis, size: 55, values: ticks },
                    ...(sort ? [{ ...axis, scale: "right", side: 1, size: 60, grid: { show: false }, values: ticks }] : [])],
                series: [
                    { label: t("step"), value: (u, v, i) => String(last(u, v, i)) },
                    { label: t("loss"), stroke: colour("--lt-faint", "#8888"), width: 1, points: { show: false }, value },
                    { label: t("smoothed"), stroke: colour("--lt-accent", "#d9730d"), width: 2.5, points: { show: false }, value },
                    ...(columns.includes(HELD) ? [{ label: t("validation"), stroke: colour("--lt-second", "#2a7ab0"), width: 2,
                        spanGaps: true, points: { show: true, size: 5 }, value }] : []),
                    ...beside,
                ],
            };
        };
        const drawn = (sort) => {
            const names = ["step", "loss", "average", ...(columns.includes(HELD) ? [HELD] : []), ...(sort ? sort.lines.map(([name]) => name) : [])];
            const at = names.map((name) => columns.indexOf(name));
            return at.map((i) => points.map((p) => (p[i] === undefined ? null : p[i])));
        };
        const draw = () => {
            page.show(wait, points.length < 2);
            page.show(home, points.length >= 2);
            page.show(chooser, points.length >= 2);
            const width = Math.floor(box.clientWidth);
            if (points.length < 2 || width < 50) return;
            offer();
            const sort = chosen();
            const fresh = JSON.stringify([colour("--lt-text", ""), sort && sort.lines, columns.includes(HELD)]);
            if (plot && fresh !== shape) {
                plot.destroy();
                plot = null;
            }
            shape = fresh;
            if (!plot) plot = new window.uPlot(options(width, sort), drawn(sort), home);
            else plot.setData(drawn(sort));
            const [step, loss, average] = points[points.length - 1];
            home.setAttribute("aria-label", t("Loss at step {step}: {loss}, smoothed {average}", { step, loss: page.number(loss), average: page.number(average) }));
        };
        page.on("status", (status) => {
            const run = status.run;
            if (!run) return;
            const fresh = of !== run.id;
            if (fresh) points = [];
            of = run.id;
            columns = run.columns || FIRST;
            const end = points.length ? points[points.length - 1][0] : -1;
            const news = (run.points || []).filter((p) => p[0] > end);
            points.push(...news);
            page.lastStep = points.length ? points[points.length - 1][0] : 0;
            if (fresh || news.length) draw();
        });
        new ResizeObserver(() => {
            const width = Math.floor(box.clientWidth);
            if (plot && width > 50 && width !== plot.width) plot.setSize({ width, height: HEIGHT });
            else if (!plot) draw();
        }).observe(box);
        page.on("theme", draw);
        return box;
    };
})();
