// What can be done to pictures of the room Dataset: its form, what it would do to how many, how far it is, what came of it.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const WAIT = 350; // milliseconds after the last key
    const OWN = ["folder", "recursive", "follow_links", "caption_extension", "only", "names", "dry_run"]; // which the room gives
    const BESIDE = ["undo", "redo", "history", "check", "tags"]; // which have places of their own
    const FIRST = ["tagger", "model", "address", "painted", "by", "shape", "to"]; // settings that come before the others
    const SAID = 50; // pictures that are named of those that were changed
    const SHOTS = 24; // that are shown of those that were drawn
    const TITLES = { // words over settings, where their own names say too little
        set: "Whole caption", add: "Add tags", remove: "Remove tags", replace: "Replace tags", trigger_word: "Trigger word", prepend: "Text in front", append: "Text behind",
        dedupe: "Only once", sort: "Sort tags", traits: "Tags of the character", strategy: "What becomes of these tags", clear: "Empty them", to_utf8: "To UTF-8",
    };
    const SOON = [40, 60, 100, 200, 400]; // milliseconds between looks at what is at work

    const NAMES = { // of works, in the order in which they are offered; the rest stands behind
        captions: "Edit captions", tag: "Tag", describe: "Describe", interrogate: "Interrogate", spelling: "Spelling", similar: "Find similar", crop: "Crop", convert: "Convert", upscale: "Upscale",
        background: "Background", mask: "Mask", erase: "Erase", flip: "Flip", split: "Split", rename: "Rename", aside: "Put aside", repeats: "Repeats", regularise: "Regularisation",
    };

    const title = (name) => t(NAMES[name] || name.charAt(0).toUpperCase() + name.slice(1).replace(/-/g, " "));
    const place = (work) => (work.name in NAMES ? Object.keys(NAMES).indexOf(work.name) : Infinity);

    const awaited = new Set(); // ids of what another part of the page waits for

    /** Does it, and waits until it is done; gives what came of it. heard(task): now and then while it is at work. */
    page.work = async (name, values, heard) => {
        let task = await page.ask("POST", `/dataset/works/${encodeURIComponent(name)}`, { values });
        const { id } = task;
        awaited.add(id);
        for (let i = 0; task.id === id && task.state === "working"; i++) {
            await new Promise((done) => setTimeout(done, SOON[Math.min(i, SOON.length - 1)]));
            task = await page.ask("GET", "/dataset/now");
            if (heard && task.of && task.id === id) heard(task);
        }
        if (task.state === "failed") throw new Error(task.error);
        return task;
    };

    /** What a caption was and would be: what goes is struck out, what comes is marked. */
    page.compared = (before, after) => {
        const parts = (text) => (text || "").split(",").map((part) => part.trim()).filter(Boolean);
        const [old, fresh] = [parts(before), parts(after)];
        const list = (all, others, tag) => all.map((part, i) => [i ? ", " : "", others.includes(part) ? part : el(tag, {}, part)]).flat();
        return el("div.compared", {}, el("div", {}, old.length ? list(old, fresh, "s") : el("span.hint", {}, t("no caption"))),
            el("div", {}, "→ ", fresh.length ? list(fresh, old, "ins") : el("span.hint", {}, t("no caption"))));
    };

    function touched(one) {
        const told = one.before === null && one.after === null ? (one.what ? el("div", {}, page.said(one.what)) : null) : page.compared(one.before, one.after);
        return el("li", {}, el("span.file-name", {}, one.name), told);
    }

    /**
     * The bar of works. given.scope(): {values, count, words} of the pictures that are meant; given.done(task): files may be others now;
     * given.control: as page.rows has it.
     *
     * Gives {element, look(), use(name, values)}; look: the scope is another.
     */
    page.worksBar = (given) => {
        const chips = el("div.line.prompts", { role: "group", "aria-label": t("What to do") });
        const scope = el("strong.scope", { role: "status" });
        const home = el("div.work");
        const { element: outcome, follow, show: told } = progress(given.done);
        const element = el("section.bench.works", { "aria-label": t("Change many"), "data-says": "" }, el("div.line", {}, scope, el("span.grow")), chips, home, outcome);
        let [works, every, shown] = [[], [], null];
        const opened = page.ask("GET", "/dataset/works").then((found) => {
            every = found;
            works = found.filter((work) => !BESIDE.includes(work.name)).sort((a, b) => place(a) - place(b) || 0);
            page.fill(chips, works.map((work) => page.button(title(work.name), () => (shown && shown.work === work ? close() : open(work)),
                { kind: "chip", "aria-pressed": "false", title: t(work.about), "data-work": work.name })));
        });
        opened.catch((error) => page.say(element, error.message));
        const pressed = () => [...chips.children].forEach((chip) => chip.setAttribute("aria-pressed", String(Boolean(shown) && chip.dataset.work === shown.work.name)));
        const close = () => {
            shown = null;
            page.fill(home);
            pressed();
        };
        const open = (work, values) => {
            shown = form(work, values || page.kept(`work ${work.name}`) || {}, given, run, close);
            page.fill(home, shown.box);
            pressed();
            shown.look();
        };
        const run = async (name, values) => {
            const beginning = await page.ask("POST", `/dataset/works/${encodeURIComponent(name)}`, { values });
            follow(beginning.id);
            await page.refreshed();
        };
        const look = () => {
            page.write(scope, given.scope().words);
            if (shown) shown.look();
        };
        return { element, look, told, has: (name) => works.some((work) => work.name === name), rows: async (name) => {
            await opened;
            return every.find((work) => work.name === name).rows.filter((row) => !OWN.includes(row.path));
        }, use: async (name, values) => {
            await opened;
            const work = works.find((one) => one.name === name);
            if (!work) throw new Error(t("{name} is not there.", { name }));
            open(work, values);
            home.scrollIntoView({ block: "nearest" });
            return shown;
        } };
    };

    /** What was changed, in place of the words that a command line prints. */
    const made = ({ changed, of, touched: list, left, balance }) => balance ? drawn(changed, list, balance) : [el("p", {}, el("strong", {}, t("{count} of {of} pictures were changed.", { count: changed, of }))),
        each(t("What became of them"), list), each(t("{n} stayed as they are", { n: (left || []).length }), left || [], { open: true })];

    const each = (words, list, given) => (list.length ? el("details.fold", given || {}, el("summary", {}, words), el("ul.examples", {}, list.slice(0, SAID).map(touched),
        list.length > SAID ? el("li.hint", {}, t("and {n} more", { n: list.length - SAID })) : null)) : null);

    /** Pictures of the class: what there is of them, and how often a run would show them. */
    const balanced = (found) => [el("p", {}, t("{pictures} pictures of the subject make {samples} samples an epoch.", found), " ",
        found.class ? t("{class} pictures of the class make as many: each is shown {shown} times.", { ...found, shown: Number(found.shown.toPrecision(3)) }) : t("There are no pictures of the class yet.")),
        found.unused ? el("p.hint", {}, t("{unused} of them are not used: one for each sample is enough.", found)) : null,
        found.strange ? el("p.warn", {}, t("{strange} of them were drawn with other prompts; take them out if they are of another class.", found)) : null];

    const drawn = (count, list, balance) => [el("p", {}, el("strong", {}, t("{n} pictures were drawn.", { n: count })), " ", page.button(t("Open their folder"), () => page.openDataset(balance.folder), { kind: "plain" })),
        el("ul.shots", {}, list.slice(0, SHOTS).map((one) => el("li", {}, el("img", { src: `${page.picture(`${balance.folder}/${one.name}`)}&width=160`, alt: one.what, title: one.what, loading: "lazy", decoding: "async" })))),
        ...balanced(balance)];

    // ── one work's form ──
    function form(work, values, given, run, close) {
        const changes = work.rows.some((row) => row.path === "dry_run"); // else it only looks
        const adds = work.name === "regularise"; // which is not among the changes
        const coming = el("div.coming", { role: "status" });
        const others = el("p.warn.lines", { hidden: true });
        const first = (row) => (FIRST.includes(row.path) ? FIRST.indexOf(row.path) : FIRST.length);
        const rows = page.rows(work.rows.filter((row) => !OWN.includes(row.path)).sort((a, b) => first(a) - first(b)), values, () => changed(), { titles: work.name === "captions" ? TITLES : {}, control: given.control });
        let [timer, asked, tried] = [null, 0, false];
        const changed = () => {
            page.kept(`work ${work.name}`, Object.fromEntries(Object.entries(rows.values()).filter(([, value]) => !String(value).startsWith("data:"))));
            look();
        };
        const look = () => {
            clearTimeout(timer);
            timer = setTimeout(() => foresee().catch((error) => page.say(box, error.message)), WAIT);
        };
        const all = () => ({ ...given.scope().values, ...rows.values() });
        const complain = (list) => {
            const own = tried ? list : list.filter((line) => !/^[a-z_]+: expected/.test(line)); // an empty form is asked, not blamed
            const rest = rows.complain(own);
            page.write(others, rest.map(page.said).join("\n"));
            page.show(others, rest.length);
        };
        const said = ({ of, count, balance }) => {
            if (of === null) return [];
            if (balance) return [el("p", {}, el("strong", {}, count ? t("{count} pictures will be drawn.", { count }) : t("There is nothing to do.")), " ", el("span.hint", {}, balance.folder)), ...balanced(balance)];
            if (!of) return [el("p.hint", {}, t("No picture is meant."))];
            if (count === null) return [el("p", {}, t("{of} pictures will be looked at; which of them change is known when they have been.", { of }))];
            return [el("p", {}, el("strong", {}, t("{count} of {of} pictures will be changed.", { count, of })), count ? "" : ` ${t("There is nothing to do.")}`)];
        };
        async function foresee() {
            const mine = ++asked;
            const found = await page.ask("POST", `/dataset/works/${encodeURIComponent(work.name)}/look`, { values: all() });
            if (mine !== asked || !box.isConnected) return;
            complain(found.complaints);
            const ready = !found.complaints.length;
            page.fill(coming, ready && changes ? said(found) : null, ready && found.examples.length ? el("details.fold", { open: found.examples.length < 4 }, el("summary", {}, t("What becomes of them")),
                el("ul.examples", {}, found.examples.map(touched))) : null);
            page.write(go, changes && ready && found.count ? t(found.balance ? "Draw {count}" : "Change {count}", { count: found.count }) : changes ? t("Do it") : t("Look"));
            go.disabled = ready && changes && found.count === 0;
            page.say(box, "");
        }
        const go = page.button(changes ? t("Do it") : t("Look"), async () => {
            tried = true;
            const found = await page.ask("POST", `/dataset/works/${encodeURIComponent(work.name)}/look`, { values: all() });
            complain(found.complaints);
            if (!found.complaints.length) await run(work.name, all());
        }, { kind: "main" });
        const clear = page.button(t("Clear"), () => {
            work.rows.forEach((row) => rows.set(row.path, row.default));
            tried = false;
            changed();
        });
        const box = el("div.work-form", { "data-says": "" }, el("p.hint", {}, t(work.about)), rows.box, others, coming,
            el("div.line.end", {}, el("span.hint", {}, adds ? t("What is there stays; what is drawn is kept, also when it is stopped.") : changes ? t("It can be undone.") : t("It changes nothing."), work.light ? null : ` ${t("Runs when nothing trains.")}`), page.button(t("Close"), close), clear, go));
        return { work, box, look, focus: rows.focus };
    }

    // ── how far it is ──
    function progress(done) {
        const name = el("h4");
        const state = el("span.hint", { role: "status" });
        const filled = el("div.filled");
        const bar = el("div.bar", { role: "progressbar", "aria-label": t("Progress"), "aria-valuemin": 0, "aria-valuemax": 100 }, filled);
        const stop = page.button(t("Stop"), () => page.ask("POST", "/dataset/stop"), { kind: "danger" });
        const report = el("div.report");
        const hide = page.button("×", () => page.show(element, false), { kind: "plain", "aria-label": t("Close") });
        const element = el("div.outcome", { hidden: true, "data-says": "" }, el("div.line", {}, name, state, el("span.grow"), stop, hide), bar, report);
        let [wanted, ended] = [null, null]; // ids
        const take = async (brief) => {
            if (!brief || brief.id === ended) return;
            const working = brief.state === "working";
            if (awaited.has(brief.id) || BESIDE.includes(brief.name)) return;
            if (brief.id !== wanted && !(working && brief.of > 1)) return; // it was over before this page looked
            wanted = brief.id;
            page.show(element, true);
            page.show(stop, working);
            page.show(hide, !working);
            page.show(bar, working);
            page.write(name, title(brief.name));
            if (working) {
                const part = brief.of ? (100 * brief.done) / brief.of : 0;
                filled.style.width = `${part.toFixed(1)}%`;
                bar.setAttribute("aria-valuenow", String(Math.round(part)));
                page.write(state, brief.of ? [t("{done} of {of}", brief), brief.left === null ? "" : t("{time} left", { time: page.time(brief.left) })].filter(Boolean).join(" · ") : t("One moment …"));
                return void page.fill(report);
            }
            ended = brief.id;
            const task = await page.ask("GET", "/dataset/now");
            if (task.id === brief.id) show(task);
            done(task);
        };
        const show = (task) => {
            page.write(name, title(task.name));
            page.write(state, `${t(task.state)} · ${t("in {time}", { time: page.time(task.seconds) })}`);
            page.show(element, true);
            page.show(stop, false);
            page.show(bar, false);
            page.show(hide, true);
            page.fill(report, task.facts && "changed" in task.facts ? made(task.facts) : page.report(task, {}));
        };
        page.on("status", (status) => take(status.work || null).catch((error) => page.say(element, error.message)));
        return { element, show, follow: (id) => (wanted = id) };
    }
})();
