// Draws the page into its element, again when that is made anew, and follows the server's state.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const TICK = 500;
    const SLOW = 5000; // milliseconds between looks while nobody looks at the page

    page.status = null;
    page.folded = null; // null: as the run asks for; else as the person said

    // ── following ──
    let stream = null;
    let asked = 0;
    let ownTitle = null;

    const visible = () => page.root && page.root.offsetParent !== null && !document.hidden;

    function follow() {
        if (!page.root || !page.root.isConnected) return;
        if (visible() && page.draft.ready) {
            if (!stream) listen();
        } else {
            if (stream) hush();
            const run = page.status && page.status.run;
            if ((page.status === null || page.active(run)) && Date.now() - asked > SLOW) page.refreshed().catch(() => {});
        }
    }

    function listen() {
        stream = new EventSource(page.url(`/events?after=${page.lastStep || 0}`));
        stream.onmessage = (event) => take(JSON.parse(event.data));
        stream.onopen = () => page.say(page.root, "");
        stream.addEventListener("trouble", (event) => page.say(page.root, JSON.parse(event.data).error));
        stream.onerror = () => {
            if (stream && stream.readyState === EventSource.CLOSED) {
                hush();
                asked = Date.now();
                page.refreshed().catch((error) => page.say(page.root, error.message));
            }
        };
    }

    function hush() {
        if (stream) stream.close();
        stream = null;
    }

    page.refreshed = async () => {
        asked = Date.now();
        take(await page.ask("GET", `/status?after=${page.lastStep || 0}`));
    };

    function take(status) {
        const before = page.status && page.status.run;
        const run = status.run;
        if (run && before && run.id !== before.id && page.lastStep) {
            page.lastStep = 0; // another run: its points from the first
            hush();
            page.refreshed().catch(() => {});
        }
        page.status = status;
        page.tell("status", status);
        named(run);
        if (before && page.active(before) && (!run || run.id !== before.id || !page.active(run))) ended(run && run.id === before.id ? run : before);
        fold(run);
    }

    // ── the browser's title, and the end ──
    function named(run) {
        if (page.active(run)) {
            if (ownTitle === null) ownTitle = document.title;
            const part = run.steps ? Math.floor((100 * run.step) / run.steps) : 0;
            const text = run.state === "paused" ? t("paused") : `${part} %`;
            const left = run.left !== null && run.left !== undefined ? ` · ${t("{time} left", { time: page.time(run.left) })}` : "";
            document.title = `${text} · ${run.name}${left}`;
        } else if (ownTitle !== null) {
            document.title = ownTitle;
            ownTitle = null;
        }
    }

    function ended(run) {
        page.tell("ended", run);
        const text = t(run.state === "failed" ? "{name} failed" : run.state === "stopped" ? "{name} was stopped" : "{name} is finished", run);
        const sound = (window.gradioApp ? window.gradioApp() : document).querySelector("#audio_notification audio");
        if (sound) {
            sound.volume = Math.min(1, ((window.opts && window.opts.notification_volume) || 100) / 100);
            sound.play().catch(() => {});
        }
        if (document.hasFocus() || !("Notification" in window) || Notification.permission !== "granted") return;
        try {
            new Notification(t("Training"), { body: text, tag: `lora_train_${run.id}` }).onclick = () => window.focus();
        } catch {
            // some phones allow notifications only to service workers
        }
    }

    page.askToNotify = () => {
        if ("Notification" in window && Notification.permission === "default") void Notification.requestPermission();
    };

    // ── the form folds while something runs ──
    let form = null;
    function fold(run) {
        if (!form) return;
        const open = page.folded === null ? !page.active(run) : !page.folded;
        page.show(form.firstChild, page.active(run) || (run && run.state === "paused"));
        if (form.open !== open) form.open = open;
    }

    function folding(inside) {
        const summary = el("summary", {}, t("Prepare the next one"));
        form = el("details.next", { open: true }, summary, inside);
        summary.addEventListener("click", () => (page.folded = form.open));
        page.on("editing", () => fold(page.status && page.status.run));
        return form;
    }

    // ── drawing ──
    async function mount(root) {
        page.root = root;
        page.deaf();
        page.language = page.chosenLanguage();
        if (root.dataset.key) document.cookie = `${root.dataset.key}; path=/; SameSite=Strict`;
        root.setAttribute("lang", page.language);
        const header = page.header();
        const body = el("div.body", { "data-says": "" }, el("p.hint", {}, t("One moment …")));
        page.fill(root, el("div.page", { "data-says": "" }, header, body));
        try {
            await page.draft.open();
        } catch (error) {
            const again = page.button(t("Try again"), () => mount(root));
            if (page.root === root) page.fill(body, el("p.warn.sign", {}, page.said(error.message)), again);
            return;
        }
        if (page.root !== root) return;
        const train = el("div.body", { "data-says": "" }, page.unfinished(), page.endCard(), page.sheetNotice(), page.runView(), folding(page.form()), page.queueView(), page.runsView(),
            page.webui() ? page.packagesView() : []);
        page.fill(body, page.rooms(train));
        dropping(train);
        page.draft.heed();
        page.tell("opened");
        page.lastStep = 0;
        if (page.status) await page.refreshed().catch(() => {});
        follow();
    }

    function dropping(body) {
        const over = (on) => body.classList.toggle("lt-drop", on);
        body.addEventListener("dragover", (e) => {
            if (![...(e.dataTransfer.types || [])].includes("Files")) return;
            e.preventDefault();
            over(true);
        });
        body.addEventListener("dragleave", () => over(false));
        body.addEventListener("drop", (e) => {
            over(false);
            const file = e.dataTransfer.files[0];
            if (!file) return;
            e.preventDefault();
            e.stopPropagation(); // the WebUI reads dropped pictures' prompts
            page.imported(file).catch((error) => page.say(body, error.message));
        });
    }

    /** The WebUI's options come after its page; they name the language. */
    const known = (root) => root.dataset.host !== "webui" || (window.opts && Object.keys(window.opts).length > 0);

    let begun = null;
    let theme = null;
    function tick() {
        const root = document.getElementById("lora_train");
        if (root && (root !== page.root || !root.firstChild)) {
            begun = begun || Date.now();
            if (known(root) || Date.now() - begun > 5000) void mount(root);
        }
        follow();
        const now = page.root && getComputedStyle(page.root).color;
        if (now !== theme) {
            theme = now;
            page.tell("theme");
        }
    }

    document.addEventListener("visibilitychange", follow);
    setInterval(tick, TICK);
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", tick);
    else tick();
})();
