// Beside the gallery of the room Dataset: the report of what is wrong, the tags and how many have them, the list of changes.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const FIRST = 60; // tags that are shown before more are asked for
    const FILES = 4; // names that are said of a kind

    const [titles, severities] = [{}, {}]; // kind -> what the report calls it; error, warn or note
    /** A kind of problem in words. */
    page.kindOf = (kind) => page.said(titles[kind] || kind.charAt(0).toUpperCase() + kind.slice(1).replace(/[-_]/g, " "));
    const quoted = (word) => (/^[\w:'.!?+-]+$/.test(word) && !/^(and|or|not)$/i.test(word) && !word.includes(":") && !word.startsWith("-") ? word : `"${word.replace(/["\\]/g, "\\$&")}"`);
    page.tagFilter = quoted;

    /** Those that are more than to be known. */
    page.grave = (kinds) => kinds.filter((kind) => severities[kind] !== "note");

    /** given.values(): the folder's; given.rows(): asks for the report's settings; given.filter(line); given.mend(finding); given.done(). */
    page.healthPanel = (given) => {
        const list = el("ul.kinds");
        const state = el("p.hint", { role: "status" });
        const fold = el("details.fold", {}, el("summary", {}, t("What counts as a problem")));
        let [found, form] = [null, null];
        fold.addEventListener("toggle", () => fold.open && formed().catch((error) => page.say(element, error.message)));
        async function formed() {
            if (form) return;
            const rows = await given.rows();
            const of = (row) => page.draft.values[`data.${row.path}`];
            form = page.rows(rows, Object.fromEntries(rows.map((row) => [row.path, of(row)]).filter(([, value]) => value !== undefined)));
            fold.append(form.box);
        }
        const begin = page.button(t("Look for problems"), async () => {
            page.write(state, t("Looking at the pictures …"));
            try {
                await formed();
                take(await page.work("check", { ...form.values(), ...given.values(), only: "" }, (brief) => page.write(state, t("{done} of {of}", brief))));
                given.done();
            } catch (error) {
                page.write(state, "");
                throw error;
            }
        }, { kind: "main" });
        const element = el("section", { "aria-label": t("Problems"), "data-says": "" }, el("div.line", {}, begin), fold, state, list);
        const take = (task) => {
            found = task.state === "done" ? task.facts.findings : null;
            for (const one of found || []) [titles[one.kind], severities[one.kind]] = [one.title, one.severity];
            page.fill(list, ["error", "warn", "note"].flatMap((severity) => (found || []).filter((one) => one.severity === severity).map(line)));
            page.write(state, !found ? t(task.state) : found.length ? t("{n} pictures looked at.", { n: task.facts.of }) : t("Nothing was found that is wrong."));
        };
        function line(one) {
            const { kind, files } = one;
            const title = page.kindOf(kind);
            const head = one.filter ? page.button(title, () => given.filter(`problem:${kind}`), { kind: "plain", title: t("Show these pictures") }) : el("strong", {}, title);
            return el("li.kind", { "data-says": "", "data-kind": kind }, el("div.line", {}, el(`span.sign.${one.severity}`), head, el("span.grow"), el("span.number", {}, String(one.count)),
                one.fix && page.button(t("Mend …"), () => given.mend(one), { "aria-label": `${t("Mend …")} ${title}` })),
            one.text ? el("p.hint", {}, page.said(one.text)) : null,
            files.length && !one.filter ? el("p.hint", {}, files.slice(0, FILES).join(", ") + (files.length > FILES ? `, … (${files.length})` : "")) : null);
        }
        /** What an earlier report of this folder found, as its counts alone. */
        const known = (counts) => {
            if (!found) page.fill(list, Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([kind, count]) => line({ kind, count, files: [], filter: true, severity: "warn" })));
        };
        const reset = () => {
            found = null;
            page.fill(list);
            page.write(state, t("Finds pictures that cannot be read, are too small, blurred or there twice, captions that are empty or too long, and more. Nothing is changed by looking."));
        };
        reset();
        const stale = () => found && page.write(state, t("Something was changed since then; look again to see what is left."));
        return { element, known, reset, stale };
    };

    /** given.ask(): asks for {total, tags: [[tag, count], …]} of the pictures shown; given.filter(line, add). */
    page.tagsPanel = (given) => {
        const search = el("input", { type: "search", "aria-label": t("Search tags"), placeholder: t("Search tags") });
        const list = el("div.line.prompts");
        const state = el("p.hint", { role: "status" });
        const more = page.button(t("Show more"), () => draw(Infinity), { hidden: true });
        const element = el("section", { "aria-label": t("Tags"), "data-says": "" }, el("div.line", {}, search), state, list, more);
        let tags = [];
        const draw = (first) => {
            const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
            const fit = tags.filter(([tag]) => words.every((word) => tag.toLowerCase().includes(word)));
            const most = fit.length ? fit[0][1] : 1;
            page.fill(list, fit.slice(0, first).map(([tag, count]) => {
                const made = el("button.button.chip", { type: "button", title: t("Click: only these. Shift: all but these."), onclick: (event) => given.filter(quoted(tag), event.shiftKey) }, tag, el("span.hint", {}, ` ${count}`));
                made.style.backgroundImage = `linear-gradient(90deg, var(--lt-line) ${((100 * count) / most).toFixed(0)}%, transparent 0)`;
                return made;
            }));
            page.show(more, fit.length > first);
        };
        search.addEventListener("input", () => draw(FIRST));
        const load = async () => {
            const found = await given.ask();
            tags = found.tags;
            page.write(state, tags.length ? t("{n} tags in the pictures shown. A click shows those that have it, Shift and a click those that do not.", { n: found.total })
                : t("The pictures shown have no captions yet."));
            draw(FIRST);
        };
        return { element, load: () => load().catch((error) => page.say(element, error.message)) };
    };

    /** given.ask(): asks for the changes, the oldest first. */
    page.changesPanel = (given) => {
        const list = el("ol.changes");
        const note = el("p.hint", {}, t("Every change is kept, with the files as they were. Undo takes back the last one, also after a restart."));
        const element = el("section", { "aria-label": t("Changes"), "data-says": "" }, note, list);
        const load = async () => {
            const found = await given.ask();
            page.fill(list, [...found].reverse().map((change) => el("li", { class: change.done ? null : "lt-undone" }, el("span", {}, page.said(change.title)),
                el("span.hint", {}, ` · ${t("{n} files", { n: change.files })} · ${page.clock(change.when)}${change.done ? "" : ` · ${t("undone")}`}`))));
            if (!found.length) page.fill(list, el("li.hint", {}, t("Nothing has been changed here.")));
        };
        return { element, load: () => load().catch((error) => page.say(element, error.message)) };
    };
})();
