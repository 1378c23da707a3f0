// Lists: what ended well, what waits, what was cut off, and what earlier runs left on the disk.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);

    // ── the end ──
    page.endCard = () => {
        const box = el("section.end", { hidden: true, role: "status", "data-says": "" });
        let key = "";
        page.on("status", ({ run }) => {
            const result = run && !page.active(run) ? run.result : null;
            const failed = run && run.state === "failed" ? run.error || run.note : null;
            const closed = run && page.kept("closed") === run.id;
            const fresh = JSON.stringify([result, failed, closed, run && run.state]);
            if (fresh === key) return;
            key = fresh;
            page.show(box, (result || failed) && !closed);
            if (!result && !failed) return;
            const close = page.button("×", () => {
                page.kept("closed", run.id);
                page.show(box, false);
            }, { kind: "plain", "aria-label": t("Close") });
            if (!result) return void page.fill(box, el("h3", {}, t("{name} failed", run), close), el("p.warn.sign", {}, page.said(failed)));
            const checks = (result.checks || []).map((text) => el("li", {}, page.said(text)));
            page.fill(box, el("h3", {}, t(run.state === "stopped" ? "{name} was stopped and saved" : "{name} is finished", run), close),
                el("p.file", {}, el("code", {}, result.file), ` · ${page.bytes(result.bytes)}`),
                result.trigger ? el("p", {}, t("Trigger word"), ": ", el("code", {}, result.trigger)) : null,
                checks.length ? el("ul", {}, checks) : null,
                el("div.line", {},
                    page.webui() ? page.button(t("Try in txt2img"), () => {
                        const drawn = (run.samples || []).slice(-1)[0]; // without a trigger word, what the last sample showed
                        page.prompted([result.trigger || (drawn && drawn.prompt), `<lora:${result.name}:1>`].filter(Boolean).join(", "));
                    }, { kind: "main" }) : null,
                    page.sheetButtons(run.name), page.inspectButton(result.file), page.button(t("Open folder"), () => opened(result.file)), el("span.hint", { role: "status" })));
        });
        async function opened(file) {
            const folder = file.replace(/[\\/][^\\/]*$/, "");
            const said = box.querySelector(".lt-hint");
            try {
                await page.ask("POST", "/open", { path: folder });
            } catch {
                await navigator.clipboard.writeText(folder).catch(() => {});
                page.write(said, t("The path is copied: {folder}", { folder }));
            }
        }
        return box;
    };

    // ── cut off ──
    page.unfinished = () => {
        const box = el("div.unfinished");
        let key = "";
        page.on("status", (status) => {
            const list = status.unfinished || [];
            if (JSON.stringify(list) === key) return;
            key = JSON.stringify(list);
            page.fill(box, list.map((e) => el("div.notice", { role: "status", "data-says": "" },
                el("p", {}, t("{name} stopped at step {step} of {steps} before it was finished.", e)),
                el("div.line", {}, act(e, "resume", t("Resume"), { kind: "main" }), act(e, "remove", t("Keep what is there")), discard(e)))));
        });
        return box;
    };

    const act = (entry, what, text, more) => page.button(text, async () => {
        await page.ask("POST", `/queue/${encodeURIComponent(entry.id)}/${what}`);
        await page.refreshed();
    }, more);
    const discard = (entry) => page.sure(t("Discard"), t("Delete what the run has written?"), t("Yes, delete"), async () => {
        await page.ask("POST", `/queue/${encodeURIComponent(entry.id)}/discard`);
        await page.refreshed();
    }, { kind: "danger" });

    // ── the queue ──
    page.edit = (entry) => {
        const draft = page.draft;
        if (entry) {
            if (!draft.editing) draft.before = { ...draft, values: { ...draft.values }, base: { ...draft.base } };
            draft.editing = entry.id;
            draft.load(entry.values);
            page.folded = false;
        } else if (draft.before) {
            draft.editing = null;
            const { values, base, reasons, preset, goal, pictures } = draft.before;
            Object.assign(draft, { values, base, reasons, preset, goal, pictures, before: null });
            draft.edited(null);
            page.folded = null;
        }
        page.tell("editing", entry);
    };

    page.queueView = () => {
        const list = el("ol.entries");
        const empty = el("p.hint", {}, t("Nothing waits. “Add to queue” puts a job here; jobs run one after the other."));
        const box = el("section.queue", { "aria-label": t("Queue") }, el("h3", {}, t("Queue")), empty, list);
        let key = "";
        const row = (e, i, all) => {
            const waits = all.filter((other) => other.state === "waiting");
            const waiting = e.state === "waiting";
            const again = e.state === "failed" || e.state === "stopped" || e.state === "unfinished";
            const buttons = page.active(e) ? [] : [
                waiting && act(e, "start", t("Start")),
                again && e.step > 0 && act(e, "resume", t("Resume")),
                waiting && e.values && page.button(t("Edit"), () => page.edit(e)),
                waiting && waits[0] !== e && act(e, "up", "↑", { "aria-label": t("Up") }),
                waiting && waits[waits.length - 1] !== e && act(e, "down", "↓", { "aria-label": t("Down") }),
                act(e, "duplicate", t("Duplicate")),
                act(e, "remove", t("Remove")),
            ];
            const progress = e.steps ? t("step {step} of {steps}", { step: e.step || 0, steps: e.steps }) : null;
            const said = [t(e.state), waiting || page.active(e) ? null : progress, e.model && e.model.name].filter(Boolean).join(" · ");
            return el(`li.entry.${e.state}`, { "data-says": "" }, el("div.line", {}, el("strong", {}, e.name), el("span.hint", {}, said),
                el("span.grow"), buttons), e.error ? el("p.warn.sign", {}, page.said(e.error)) : null);
        };
        page.on("status", (status) => {
            const all = status.queue || [];
            const fresh = JSON.stringify(all.map(({ values, ...e }) => ({ ...e, step: page.active(e) ? 0 : e.step })));
            if (fresh === key || box.contains(document.activeElement) && box.querySelector(".lt-sure")) return;
            key = fresh;
            page.show(empty, !all.length);
            const held = document.activeElement;
            const text = list.contains(held) ? [held.closest("li") && [...list.children].indexOf(held.closest("li")), held.textContent] : null;
            page.fill(list, all.map(row));
            const again = text && list.children[text[0]] && [...list.children[text[0]].querySelectorAll("button")].find((b) => b.textContent === text[1]);
            if (again) again.focus();
        });
        return box;
    };

    // ── earlier runs ──
    page.runsView = () => {
        const list = el("ul.entries");
        const box = el("details.fold.runs", { "data-says": "" }, el("summary", {}, t("Earlier runs")), list);
        const clear = (run, what, text, question) => page.sure(text, question, t("Yes, delete"), async () => {
            await page.ask("DELETE", `/runs/${encodeURIComponent(run.name)}?what=${what}`);
            await draw();
        });
        const row = (run) => el("li.entry", { "data-says": "" },
            el("div.line", {}, el("strong", {}, run.name), el("span.hint", {}, [t(run.state), run.began ? page.clock(run.began) : null,
                run.steps ? t("step {step} of {steps}", run) : null, run.bytes ? page.bytes(run.bytes) : null].filter(Boolean).join(" · ")), el("span.grow"),
            page.button(t("Use its settings"), () => taken(run, {})),
            run.file ? page.button(t("Train it further"), () => taken(run, { "network.weights": run.file })) : null,
            run.file && !page.active(run) ? page.sheetButtons(run.name) : null,
            run.file ? page.inspectButton(run.file) : null,
            run.caches_bytes && !page.active(run) ? clear(run, "caches", t("Clear caches ({size})", { size: page.bytes(run.caches_bytes) }), t("They are made again when needed.")) : null,
            run.states_bytes && !page.active(run) ? clear(run, "states", t("Clear states ({size})", { size: page.bytes(run.states_bytes) }), t("Without them it cannot be resumed.")) : null,
            page.active(run) ? null : clear(run, "all", t("Delete"), t("Delete this run and its files?"))), page.insight(() => run.name));
        async function taken(run, more) {
            const values = run.values || (await page.ask("GET", `/runs/${encodeURIComponent(run.name)}`)).values;
            page.draft.load({ ...values, "place.resume": null, ...more });
            page.folded = false;
            page.tell("editing", null);
            page.root.scrollIntoView();
        }
        async function draw() {
            const runs = await page.ask("GET", "/runs");
            page.fill(list, runs.length ? runs.map(row) : el("li.hint", {}, t("No run has ended yet.")));
        }
        box.addEventListener("toggle", () => box.open && draw().catch((error) => page.say(list, error.message)));
        page.on("ended", () => box.open && draw().catch(() => {}));
        return box;
    };
})();
