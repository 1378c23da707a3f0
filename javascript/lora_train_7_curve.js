// The loss curve: raw and smoothed on the left axis, the learning rate on the right.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const HEIGHT = 230;

    function colour(name, otherwise) {
        return getComputedStyle(page.root).getPropertyValue(name).trim() || otherwise;
    }

    page.curve = () => {
        const home = el("div.plot", { role: "img" });
        const wait = el("p.hint", {}, t("The curve begins with the first steps."));
        const box = el("div.curve", {}, home, wait);
        let points = [];
        let of = null;
        let plot = null;
        let dark = null;

        /** What the legend says where nothing is pointed at: the last values. */
        const last = (u, v, i) => (v === null || v === undefined ? u.data[i][u.data[i].length - 1] : v);

        const options = (width) => {
            const [text, line] = [colour("--lt-text", "#222"), colour("--lt-line", "#ccc")];
            const axis = { stroke: text, grid: { stroke: line, width: 0.5 }, ticks: { stroke: line, width: 0.5 }, font: "11px sans-serif" };
            const value = (u, v, i) => page.number(last(u, v, i));
            const ticks = (u, splits) => splits.map((v) => page.number(v));
            return {
                width, height: HEIGHT, cursor: { drag: { x: true, y: false } },
                scales: { x: { time: false }, lr: { range: (u, low, high) => [0, high ? high * 1.1 : 1] } },
                axes: [{ ...axis, size: 30 }, { ...axis, size: 55, values: ticks },
                    { ...axis, scale: "lr", side: 1, size: 60, grid: { show: false }, values: ticks }],
                series: [
                    { label: t("step"), value: (u, v, i) => String(last(u, v, i)) },
                    { label: t("loss"), stroke: colour("--lt-faint", "#8888"), width: 1, points: { show: false }, value },
                    { label: t("smoothed"), stroke: colour("--lt-accent", "#d9730d"), width: 2.5, points: { show: false }, value },
                    { label: t("learning rate"), stroke: colour("--lt-second", "#2a7ab0"), width: 1.5, dash: [6, 4], scale: "lr", points: { show: false }, value },
                ],
            };
        };
        const columns = () => [0, 1, 2, 3].map((i) => points.map((p) => p[i]));
        const draw = () => {
            page.show(wait, points.length < 2);
            page.show(home, points.length >= 2);
            const width = Math.floor(box.clientWidth);
            if (points.length < 2 || width < 50) return;
            const isDark = colour("--lt-text", "");
            if (plot && isDark !== dark) {
                plot.destroy();
                plot = null;
            }
            dark = isDark;
            if (!plot) plot = new window.uPlot(options(width), columns(), home);
            else plot.setData(columns());
            const [step, loss, average] = points[points.length - 1];
            home.setAttribute("aria-label", t("Loss at step {step}: {loss}, smoothed {average}", { step, loss: page.number(loss), average: page.number(average) }));
        };
        page.on("status", (status) => {
            const run = status.run;
            if (!run) return;
            const fresh = of !== run.id;
            if (fresh) points = [];
            of = run.id;
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
