// A sheet: its cells as they arrive, what was measured of each, the one that is suggested, tables and heat map.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);

    const KINDS = { strengths: "Strength grid", files: "Compare files" };
    const THUMB = 320; // pixels that a picture in a cell is fetched with
    const SCORES = { loss: "loss", looks: "looks", moved: "difference", changed: "changed pixels" };
    const at = (cell) => cell.at.join(" ");
    const path = (name) => `/sheets/${encodeURIComponent(name)}`;

    const VERDICTS = {
        good: "It is the best of what was measured.", overfit: "It has learned too much or too fast; train it shorter or slower, or take an earlier file.",
        underfit: "It still gets better at the highest strength: it has learned too little; train it longer or faster.",
        "nothing learned": "At no strength is it better than without it.",
    };
    const AXES = { "te strength": "TE strength", "unet strength": "UNet strength", "block strength": "Block strength", strength: "Strength", seed: "Seed",
        steps: "Steps", "cfg scale": "CFG scale", "start step": "Start step", "stop step": "Stop step" };

    /** The server's whole sentence in English, else one of the facts behind it; sheets of before have fewer. */
    page.suggestion = (found) => {
        if (page.language === "en") return found.text;
        const numbers = Object.entries(found.numbers || {}).map(([name, at]) => {
            const shown = Object.fromEntries(Object.entries(at).map(([place, value]) => [place, page.number(value)]));
            const of = name === "loss" ? t("loss on {of}", { of: page.said(found.of) }) : t(SCORES[name]);
            const given = { ...shown, name: of };
            return at.full === undefined ? t("{name} {here} (without {bare})", given) : t("{name} {here} (at full strength {full}, without {bare})", given);
        });
        const where = found.file === null ? t("Suggested: the model without a LoRA.") : t("Suggested: {file} at {strength}.", found);
        const blind = found.held === false ? t("The loss is of pictures that were learned from, and so it does not see too much of it.") : "";
        return [where, t(VERDICTS[found.verdict] || ""), numbers.join(" · "), blind].filter(Boolean).join(" ");
    };

    /** "strength 0.8" in the page's language. */
    const labelled = (label) => {
        const name = Object.keys(AXES).find((word) => label.startsWith(`${word} `));
        return name ? `${t(AXES[name]).toLowerCase()}${label.slice(name.length)}` : label === "without" ? t("without a LoRA") : label;
    };

    /** The buttons of a run that has ended: its two sheets, and the room with its files. */
    page.sheetButtons = (name) => [...Object.entries(KINDS).map(([what, text]) => page.button(t(text), async () => {
        await page.ask("POST", `/runs/${encodeURIComponent(name)}/sheet`, { what });
        await page.refreshed();
        page.evaluate({ sheet: `${name}-${what}` });
    })), page.button(t("Evaluate"), () => page.evaluate({ run: name }))];

    page.shownScore = (name, value) => (name === "changed" ? `${page.number(100 * value)} %` : page.number(value));

    /** What was measured of a cell, as bars against the most on the sheet. */
    page.scoreBars = (metrics, most) => el("dl.scores", {}, Object.keys(SCORES).filter((name) => name in metrics).flatMap((name) => {
        const bar = el("span.part");
        bar.style.width = `${most[name] ? (100 * metrics[name]) / most[name] : 0}%`;
        return [el("dt", {}, t(SCORES[name])), el("dd", {}, el("span.whole", { "aria-hidden": "true" }, bar), page.shownScore(name, metrics[name]))];
    }));

    /** Beside the form, while one is drawn: nothing else can be begun. */
    page.sheetNotice = () => {
        const said = el("span", { role: "status" });
        const box = el("div.notice", { hidden: true, "data-says": "" }, el("div.line", {}, said, el("span.grow"),
            page.button(t("Show it"), () => page.evaluate({ sheet: page.status.sheet.name }))));
        page.on("status", ({ sheet }) => {
            const live = sheet && sheet.state === "drawing";
            page.show(box, live);
            if (live) page.write(said, `${sheet.name}: ${t("Drawing picture {n} of {of} …", { n: Math.min(sheet.done + 1, sheet.of), of: sheet.of })}`);
        });
        return box;
    };

    /** The sheet that is looked at. edit(asked): puts its plan into the form. */
    page.sheetView = (edit) => {
        const title = el("h3");
        const state = el("p.hint", { role: "status" });
        const bar = el("div.filled");
        const progress = el("div.bar", { role: "progressbar", "aria-label": t("Progress"), "aria-valuemin": 0, "aria-valuemax": 100 }, bar);
        const stop = page.button(t("Stop"), async () => {
            await page.ask("POST", "/sheet/stop");
            await page.refreshed();
        }, { kind: "danger" });
        const on = page.button(t("Go on"), () => again(), { kind: "main" });
        const plan = page.button(t("Change its plan"), () => edit(sheet.asked, shown));
        const close = page.button("×", () => view.open(null), { kind: "plain", "aria-label": t("Close") });
        const suggested = el("p.told");
        const pages = el("div.line.prompts", { role: "group", "aria-label": t("Sheets") });
        const differs = el("input", { type: "checkbox", id: "lt_differs" });
        const wide = el("input", { type: "range", min: 80, max: 400, step: 20, "aria-label": t("Size of the pictures") });
        wide.value = page.kept("cell width") || (page.root.clientWidth < 700 ? 140 : 180);
        const tools = el("div.line", {}, pages, el("label", { for: "lt_differs" }, differs, t("difference to the base picture")), el("span.grow"), el("label.hint", {}, t("Size of the pictures"), " ", wide));
        const table = el("div.scroll.grid", { tabindex: 0, role: "region", "aria-label": t("Sheet") });
        const below = el("div.under");
        const box = el("section.sheet", { hidden: true, "data-says": "", "aria-label": t("Sheet") },
            el("div.line.top", {}, title, el("span.grow"), stop, on, plan, close), state, progress, suggested, tools, table, below);
        let [shown, sheet, cells, spots, z, key, count, busy, wanted] = [null, null, {}, {}, 0, "", 0, false, false];

        const now = () => (page.status && page.status.sheet && page.status.sheet.name === shown ? page.status.sheet : null);
        const drawing = () => Boolean(now()) && now().state === "drawing";
        const again = async () => {
            const { what, run, values, job } = sheet.asked;
            if (what === "plan") await page.ask("POST", path(shown), { values, job, run });
            else await page.ask("POST", `/runs/${encodeURIComponent(run)}/sheet`, { what });
            await page.refreshed();
            await load();
        };

        // ── the grid ──
        const side = (name) => {
            const found = sheet.axes.find((axis) => axis.side === name);
            return found ? { ...found, labels: found.labels.map(labelled) } : { values: [""], labels: [""] };
        };
        const most = () => {
            const found = {};
            for (const cell of Object.values(cells)) for (const [name, value] of Object.entries(cell.metrics)) found[name] = Math.max(found[name] || 0, value);
            return found;
        };
        const words = (cell) => sheet.axes.map((axis) => side(axis.side).labels[cell.at["xyz".indexOf(axis.side)]]).join(", ");
        const fill = (spot, cell, tops) => {
            const best = (sheet.framed || []).some((place) => place.join(" ") === at(cell));
            const shape = `${cell.url} ${best}`;
            if (spot.dataset.shape === shape) return void spot.lastChild.replaceWith(page.scoreBars(cell.metrics, tops));
            spot.dataset.shape = shape;
            const base = cell.base_url && el("img.base", { src: `${page.picture(cell.base_url)}&width=${THUMB}`, alt: "", loading: "lazy", decoding: "async" });
            const image = el("img", { src: `${page.picture(cell.url)}&width=${THUMB}`, alt: words(cell), loading: "lazy", decoding: "async" });
            const button = el("button.shot", { type: "button", title: t("Full size and settings") }, base, image);
            button.addEventListener("click", () => page.cell(cell, { sheet, words, most: most(), order: ordered() }));
            spot.classList.toggle("lt-best", best);
            page.fill(spot, button, best ? el("strong.hint", {}, t("suggested")) : null, page.scoreBars(cell.metrics, tops));
        };
        const ordered = () => Object.values(cells).sort((a, b) => a.at[2] - b.at[2] || a.at[1] - b.at[1] || a.at[0] - b.at[0]);
        const grid = () => {
            spots = {};
            const [x, y, zs] = ["x", "y", "z"].map(side);
            page.fill(pages, zs.values.length < 2 ? [] : zs.labels.map((label, i) => page.button(label, () => {
                z = i;
                grid();
            }, { kind: "chip", "aria-pressed": String(i === z) })));
            const spot = (tag, i, j) => (spots[`${i} ${j} ${z}`] = el(tag, {}, el("span.wait")));
            const rows = () => y.labels.map((label, j) => el("tr", {}, y.values.length > 1 ? el("th", { scope: "row" }, label) : null, x.labels.map((_, i) => spot("td", i, j))));
            const heads = el("tr", {}, y.values.length > 1 ? el("td") : null, x.labels.map((label) => el("th", { scope: "col" }, label)));
            const tiles = () => el("ul.tiles", {}, y.labels.map((label, j) => el("li", {}, el("strong", {}, label), spot("div", 0, j))));
            const whole = () => (x.values.length === 1 && y.values.length > 2 ? tiles() : el("table", {}, el("thead", {}, heads), el("tbody", {}, rows())));
            page.fill(table, sheet.axes.length ? whole() : el("p.hint", {}, t("Its pictures are shown when it goes on; those that are there are not drawn again.")));
            paint();
        };
        const paint = () => {
            const tops = most();
            for (const cell of Object.values(cells)) if (spots[at(cell)]) fill(spots[at(cell)], cell, tops);
        };
        const look = () => {
            table.classList.toggle("lt-differs", differs.checked);
            table.style.setProperty("--lt-cell", `${wide.value}px`);
        };
        differs.addEventListener("change", look);
        wide.addEventListener("input", () => {
            page.kept("cell width", Number(wide.value));
            look();
        });

        // ── what is below it ──
        const heat = () => {
            const scores = sheet.scores || [];
            const [files, strengths] = [0, 1].map((i) => [...new Set(scores.map((row) => row[i]))]);
            if (scores.length < 2 || !sheet.suggestion) return null;
            const [low, high] = [Math.min(...scores.map((row) => row[2])), Math.max(...scores.map((row) => row[2]))];
            const one = (file, strength) => {
                const row = scores.find((found) => found[0] === file && found[1] === strength);
                if (!row) return el("td", {}, "–");
                const best = strength === sheet.suggestion.strength && (file === sheet.suggestion.file || sheet.suggestion.file === null);
                const cell = el(best ? "td.best" : "td", { title: best ? t("suggested") : null }, page.number(row[2]), best ? el("span.hint", {}, ` ${t("suggested")}`) : null);
                cell.style.setProperty("--lt-heat", `${Math.round(high > low ? (100 * (high - row[2])) / (high - low) : 0)}%`);
                return cell;
            };
            return el("section", { "aria-label": t("Scores") }, el("h4", {}, t("Scores")),
                el("p.hint", {}, t("Lower is better, and 1 as good as without it. What it is of: {of}.", { of: [sheet.loss_of ? t("loss on {of}", { of: page.said(sheet.loss_of) }) : null, t("looks")].filter(Boolean).join(", ") })),
                el("div.scroll.heat", {}, el("table", {}, el("thead", {}, el("tr", {}, el("td"), strengths.map((s) => el("th", { scope: "col" }, page.number(s))))),
                    el("tbody", {}, files.map((file) => el("tr", {}, el("th", { scope: "row" }, file), strengths.map((s) => one(file, s))))))));
        };
        const blocks = () => {
            if (!(sheet.blocks || []).length) return null;
            const top = Math.max(...sheet.blocks.map((row) => row.changed), 1e-9);
            return el("section", { "aria-label": t("Blocks") }, el("h4", {}, t("Blocks")), el("p.hint", {}, t("How far each block moves the picture, the furthest first: the share of pixels that differ by more than the threshold, and their mean difference.")),
                el("div.scroll", {}, el("table", {}, el("thead", {}, el("tr", {}, ["block", "strength", "changed pixels", "difference", "pictures"].map((head) => el("th", { scope: "col" }, t(head))))),
                    el("tbody", {}, sheet.blocks.map((row) => {
                        const part = el("span.part");
                        part.style.width = `${(100 * row.changed) / top}%`;
                        return el("tr", {}, el("th", { scope: "row" }, row.block), el("td", {}, page.number(row.strength)),
                            el("td", {}, el("span.whole", { "aria-hidden": "true" }, part), ` ${page.shownScore("changed", row.changed)}`), el("td", {}, page.number(row.moved)), el("td", {}, String(row.pictures)));
                    })))));
        };
        const under = () => page.fill(below, heat(), blocks(), (sheet.notes || []).map((note) => el("p.note", {}, page.said(note))),
            el("div.line", {}, (sheet.sheet_urls || []).map((url, i, all) => el("a", { href: page.picture(url), target: "_blank", rel: "noopener" }, all.length > 1 ? t("Labelled sheet {n}", { n: i + 1 }) : t("Labelled sheet"))),
                sheet.heat_url ? el("a", { href: page.picture(sheet.heat_url), target: "_blank", rel: "noopener" }, t("Heat map as a picture")) : null));

        // ── what the server says ──
        const said = () => {
            const live = now();
            const failed = live && live.error;
            page.write(title, live && KINDS[live.what] ? `${live.run} · ${t(KINDS[live.what])}` : shown || "");
            const left = live && live.left !== null && live.left !== undefined ? ` · ${t("{time} left", { time: page.time(live.left) })}` : "";
            const note = live && live.note ? ` · ${page.said(live.note)}` : "";
            page.write(state, drawing() ? `${t("Drawing picture {n} of {of} …", { n: Math.min(live.done + 1, live.of), of: live.of })}${left}${note}`
                : failed ? page.said(live.error) : sheet && sheet.state === "stopped" ? t("It was not drawn to its end.") : "");
            state.classList.toggle("lt-warn", Boolean(failed));
            page.show(state, state.textContent);
            page.show(progress, drawing());
            if (drawing()) {
                const part = live.of ? Math.round((100 * live.done) / live.of) : 0;
                bar.style.width = `${part}%`;
                progress.setAttribute("aria-valuenow", part);
            }
            page.show(stop, drawing());
            page.show(on, !drawing() && sheet && sheet.asked && sheet.state !== "done");
            page.show(plan, !drawing() && sheet && sheet.asked);
            const best = sheet && sheet.suggestion;
            page.write(suggested, best ? page.suggestion(best) : "");
            page.show(suggested, best);
            page.show(tools, sheet && sheet.axes.length);
        };
        const load = async (after = 0) => {
            if (!shown || busy) return void (wanted = busy);
            busy = true;
            wanted = false;
            const mine = shown;
            try {
                const found = await page.ask("GET", `${path(mine)}${after ? `?after=${after}` : ""}`);
                if (mine !== shown) return;
                const other = !after || !sheet || JSON.stringify(sheet.axes) !== JSON.stringify(found.axes);
                if (!after) cells = {};
                for (const cell of found.cells) cells[at(cell)] = cell;
                [sheet, count] = [found, found.count];
                if (other) {
                    z = Math.min(z, side("z").values.length - 1);
                    grid();
                    under();
                } else paint();
            } finally {
                busy = false;
            }
            said();
            if (wanted) await load();
        };
        page.on("status", () => {
            const live = now();
            if (!live) return void (key && said());
            const fresh = `${live.name} ${live.state} ${live.done}`;
            const whole = !key.startsWith(`${live.name} ${live.state} `) || !sheet;
            if (fresh !== key && box.isConnected) {
                key = fresh;
                load(whole ? 0 : count).catch((error) => page.say(box, error.message));
            }
            if (sheet) said();
        });

        const view = { box, shown: () => shown };
        /** Shows one; null: none. */
        view.open = async (name) => {
            [shown, sheet, cells, z, key, count] = [name, null, {}, 0, "", 0];
            page.kept("sheet", name || "");
            page.show(box, name);
            page.fill(table);
            page.fill(below);
            if (!name) return;
            try {
                await load();
            } catch (error) {
                if (error.status !== 404 || !now()) throw error; // the first picture is still to come
                said();
            }
        };
        look();
        return view;
    };
})();
