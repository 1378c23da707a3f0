// What a run's records tell: loss by timestep, pictures by their loss, what each block adds, runs side by side.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const HEIGHT = 220;
    const FIRST = 12; // pictures that are shown before more are asked for
    const OTHERS = 5; // runs that one can be held against
    const LISTED = 30; // of them, the newest
    const AGAIN = 10_000; // milliseconds between two looks at a run that goes on
    const COLOURS = ["--lt-accent", "--lt-second", "--lt-third", "--lt-fourth", "--lt-faint", "--lt-bad"];
    const DASHES = [[], [7, 3], [2, 3], [10, 3, 2, 3], [4, 4], [1, 3]];

    const colour = (name) => getComputedStyle(page.root).getPropertyValue(name).trim() || "#888";
    const path = (name) => `/runs/${encodeURIComponent(name)}`;
    const middle = (row) => (row.from + row.to) / 2;

    /** The fold. `named` says of which run, null of none; `going` whether it goes on. */
    page.insight = (named, going = () => false) => {
        const inside = el("div.insight");
        const box = el("details.fold", { "data-says": "" }, el("summary", {}, t("What its records tell")), inside);
        let [shown, looked, table] = [null, 0, null];
        const parts = [byTimestep(), byPicture(), byBlock(), beside(named)];
        const [steps, pictures, blocks, others] = parts.map((part) => part.box);
        page.fill(inside, el("div", {}, steps, blocks), pictures, others);
        const draw = () => box.open && table && parts.forEach((part) => part.draw(table));
        const look = async () => {
            const name = named();
            if (!box.open || !name) return;
            [shown, looked] = [name, Date.now()];
            try {
                table = await page.ask("GET", `${path(name)}/insight`);
                page.say(inside, "");
                draw();
            } catch (error) {
                page.say(inside, going() ? t("The first steps are still to come.") : error.message);
            }
        };
        const again = () => shown !== named() || (going() && Date.now() - looked > AGAIN);
        const listen = () => { // a list of runs has many that nobody opens
            page.on("status", () => box.isConnected && again() && look());
            page.on("ended", () => box.isConnected && look());
            page.on("theme", draw);
            new ResizeObserver(draw).observe(inside);
        };
        box.addEventListener("toggle", listen, { once: true });
        box.addEventListener("toggle", look);
        return box;
    };

    /** A heading, what it means, and what is drawn; or why there is nothing. */
    function panel(title, help, ...drawn) {
        const why = el("p.note", { hidden: true });
        const full = el("div", {}, el("p.hint", {}, help), ...drawn);
        const box = el("section", { "aria-label": title }, el("h4", {}, title), why, full);
        const empty = (said) => {
            page.write(why, said ? page.said(said) : "");
            page.show(why, said);
            page.show(full, !said);
            return Boolean(said);
        };
        return { box, empty };
    }

    // ── lines ──
    /** A plot that is made anew where its lines, its colours or its width are others. */
    function plot(home) {
        let [made, before] = [null, ""];
        return (across, lines, data, bands = []) => {
            const width = Math.floor(home.clientWidth);
            if (width < 50) return;
            const key = JSON.stringify([width, colour("--lt-text"), lines.map((line) => [line.label, line.colour])]);
            if (made && key === before) {
                made.setData(data);
                return;
            }
            if (made) made.destroy();
            before = key;
            const [text, line] = [colour("--lt-text"), colour("--lt-line")];
            const axis = { stroke: text, grid: { stroke: line, width: 0.5 }, ticks: { stroke: line, width: 0.5 }, font: "11px sans-serif" };
            const value = (u, v) => page.number(v);
            made = new window.uPlot({
                width, height: HEIGHT, bands, cursor: { drag: { x: false, y: false } },
                scales: { x: { time: false } },
                axes: [{ ...axis, size: 30 }, { ...axis, size: 55, values: (u, splits) => splits.map((v) => page.number(v)) }],
                series: [{ label: across, value }, ...lines.map((one) => ({ label: one.label, stroke: colour(one.colour), dash: one.dash,
                    width: one.width === undefined ? 2 : one.width, spanGaps: true, points: { show: false }, value }))],
            }, data, home);
        };
    }

    function byTimestep() {
        const home = el("div.plot", { role: "img" });
        const { box, empty } = panel(t("Loss by timestep"), t("The mean at each span of timesteps, from little noise to much; half of all samples lie in the shade. Two more lines are of the run's first and second half."), home);
        const show = plot(home);
        const draw = ({ timesteps }) => {
            if (empty(timesteps.said)) return;
            const rows = timesteps.rows.filter((row) => row.count);
            const of = (name) => rows.map((row) => row[name]);
            const lines = [
                { label: t("mean"), colour: "--lt-accent", width: 2.5 },
                { label: t("a quarter is above"), colour: "--lt-faint", width: 0.5 }, { label: t("a quarter is below"), colour: "--lt-faint", width: 0.5 },
                { label: t("first half"), colour: "--lt-second", dash: DASHES[1], width: 1.5 }, { label: t("second half"), colour: "--lt-third", dash: DASHES[2], width: 1.5 },
            ];
            const data = [rows.map(middle), of("mean"), of("high"), of("low"), of("early"), of("late")];
            show(t("timestep"), lines, data, [{ series: [2, 3], fill: `${colour("--lt-faint")}44` }]);
            home.setAttribute("aria-label", rows.map((row) => `${row.from}–${row.to}: ${page.number(row.mean)}`).join(", "));
        };
        return { box, draw };
    }

    // ── pictures ──
    /** The folder that all of some files lie in or below. */
    function above(files) {
        const parts = files.map((file) => file.split(/[\\/]/).slice(0, -1));
        const same = parts[0].findIndex((part, i) => parts.some((other) => other[i] !== part));
        const length = parts[0].slice(0, same < 0 ? undefined : same).join("/").length;
        return files[0].slice(0, length);
    }

    function byPicture() {
        const list = el("ol.shots");
        const more = page.button(t("Show more"), () => {
            all = true;
            fill();
        }, { hidden: true });
        const inRoom = page.button(t("Open in Dataset"), () => {
            page.go("dataset");
            return page.openDataset(above(rows.map((row) => row.file)), run);
        }, { hidden: true });
        const { box, empty } = panel(t("Pictures by loss"), t("The highest first: a wrong caption, or a picture that does not belong, is often among them. The number says how much its loss is against what is usual at the timesteps it was seen at, and how sure that is."), list, el("div.line", {}, more, inRoom));
        let [rows, how, total, all, key, run] = [[], "times", 0, false, "", null];
        const shot = (row) => {
            const file = page.picture(row.file);
            const image = el("img", { src: `${file}&width=160`, alt: row.name, loading: "lazy", decoding: "async" });
            const number = how === "times" ? `× ${page.number(row.against)}` : `${row.against > 0 ? "+" : ""}${page.number(row.against)}`;
            const words = [row.error === null ? null : `± ${page.number(row.error, 2)}`, t("seen {n} times", { n: row.count }), row.is_reg ? t("regularisation") : null].filter(Boolean).join(" · ");
            return el("li", {}, el("a", { href: file, target: "_blank", rel: "noopener", title: row.file }, image),
                el("p", {}, el("span.hint", {}, `${row.place}. `), el("strong", {}, number)), el("p.hint", {}, words),
                el("p.caption", { title: row.caption }, row.caption || t("no caption")));
        };
        const fill = () => {
            page.fill(list, (all ? rows : rows.slice(0, FIRST)).map(shot));
            page.show(more, !all && rows.length > FIRST);
            page.write(more, t("Show {n} of {total}", { n: rows.length, total }));
        };
        const draw = ({ name, pictures }) => {
            if (empty(pictures.said)) return;
            run = name;
            const fresh = JSON.stringify(pictures.rows);
            if (fresh === key) return;
            key = fresh;
            ({ rows, how, total } = pictures);
            page.show(inRoom, rows.length);
            fill();
        };
        return { box, draw };
    }

    // ── blocks ──
    const SVG = "http://www.w3.org/2000/svg";
    function course(values, top) {
        const svg = document.createElementNS(SVG, "svg");
        const line = document.createElementNS(SVG, "polyline");
        const last = Math.max(1, values.length - 1);
        const points = values.map((v, i) => (v === null ? null : `${((100 * i) / last).toFixed(1)},${(19 - (18 * v) / top).toFixed(1)}`)).filter(Boolean);
        line.setAttribute("points", points.length === 1 ? `${points[0]} 100,${points[0].split(",")[1]}` : points.join(" "));
        line.setAttribute("vector-effect", "non-scaling-stroke");
        for (const [name, value] of Object.entries({ viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" })) svg.setAttribute(name, value);
        svg.append(line);
        return svg;
    }

    function byBlock() {
        const list = el("ul.courses");
        const { box, empty } = panel(t("Norms by block"), t("How much each block's adapters add to the model over the run, all on one scale, and the last value: what learns, and what stands still."), list);
        let key = "";
        const draw = ({ blocks }) => {
            if (empty(blocks.said)) return;
            const fresh = JSON.stringify(blocks);
            if (fresh === key) return;
            key = fresh;
            const top = Math.max(...blocks.rows.flatMap((row) => row.values.filter((v) => v !== null)), 1e-12);
            page.fill(list, blocks.rows.map((row) => {
                const last = row.values.filter((v) => v !== null).pop();
                return el("li", {}, el("span.name", {}, row.name), course(row.values, top), el("span", {}, page.number(last)));
            }));
        };
        return { box, draw };
    }

    // ── side by side ──
    function beside(named) {
        const chips = el("div.line.prompts", { role: "group", "aria-label": t("Runs to compare with") });
        const [home, steps] = [el("div.plot", { role: "img", hidden: true }), el("div.plot", { role: "img", hidden: true })];
        const sums = el("ul.sums");
        const differ = el("div.scroll");
        const { box, empty } = panel(t("Compare runs"), t("Choose other runs: their smoothed losses, their losses by timestep, and the settings that differ."), chips, el("div.two", {}, home, steps), sums, differ);
        const shows = [plot(home), plot(steps)];
        let [of, names, chosen, key, table] = [null, [], [], "", null];
        const side = async () => {
            key = JSON.stringify([named(), chosen]);
            const mine = key;
            const every = [named(), ...chosen].map(encodeURIComponent).join("/");
            const found = chosen.length ? await page.ask("GET", `/compare?names=${every}`) : null;
            if (mine !== key) return; // another was chosen while this was asked
            table = found;
            drawn();
        };
        const chip = (name) => page.button(name, async () => {
            chosen = chosen.includes(name) ? chosen.filter((other) => other !== name) : [...chosen, name].slice(-OTHERS);
            [...chips.children].forEach((one, i) => one.setAttribute("aria-pressed", String(chosen.includes(names[i]))));
            await side();
        }, { kind: "chip", "aria-pressed": "false" });
        const drawn = () => {
            [home, steps].forEach((one) => page.show(one, table));
            page.fill(sums, table ? table.runs.map(sum) : []);
            page.fill(differ, table ? differing(table) : []);
            if (!table) return;
            const lines = table.runs.map((run, i) => ({ label: run.name, colour: COLOURS[i], dash: DASHES[i] }));
            const joined = (rows) => window.uPlot.join(rows.map((points) => [points.map((p) => p[0]), points.map((p) => p[1])]));
            shows[0](t("step"), lines, joined(table.runs.map((run) => run.points)));
            shows[1](t("timestep"), lines, joined(table.runs.map((run) => run.timesteps.filter((row) => row.mean !== null).map((row) => [middle(row), row.mean]))));
            home.setAttribute("aria-label", t("Smoothed losses of {names}", { names: table.runs.map((run) => run.name).join(", ") }));
            steps.setAttribute("aria-label", t("Losses by timestep of {names}", { names: table.runs.map((run) => run.name).join(", ") }));
        };
        const draw = async (given) => {
            if (of !== given.name) {
                [of, chosen, table] = [given.name, [], null];
                const runs = await page.ask("GET", "/runs");
                names = runs.map((run) => run.name).filter((name) => name !== given.name).slice(0, LISTED);
                page.fill(chips, names.map(chip));
            }
            if (!empty(names.length ? null : "there is no other run")) drawn();
        };
        return { box, draw: (given) => void draw(given).catch((error) => page.say(box, error.message)) };
    }

    function sum(run) {
        const best = run.best ? t("lowest validation loss {loss} at step {step}", { loss: page.number(run.best.loss), step: run.best.step }) : null;
        return el("li", {}, el("strong", {}, run.name), ` · ${[t("step {step}", run), t("loss {n}", { n: page.number(run.average) }), best].filter(Boolean).join(" · ")}`);
    }

    function differing(table) {
        if (!table.differ.length) return el("p.note", {}, t("Their settings are the same."));
        const heads = table.runs.map((run) => el("th", { scope: "col" }, run.name));
        return el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, t("setting")), heads)),
            el("tbody", {}, table.differ.map((row) => el("tr", {}, el("th", { scope: "row" }, row.path), row.values.map((v) => el("td", {}, page.shown(v)))))));
    }
})();
