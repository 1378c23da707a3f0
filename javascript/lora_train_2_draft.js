// What is being put together: values, the preset they are held against, and what the server says of them.
(function () {
    "use strict";

    const page = window.loraTrain;
    const WAIT = 350; // milliseconds after the last key

    const draft = (page.draft = {
        settings: {}, // path -> what the server declares
        groups: [],
        goals: [],
        presets: [],
        header: {},
        goal: "character",
        preset: "Balanced",
        base: {}, // the preset's values
        reasons: {},
        values: {}, // what differs from the defaults
        aside: {}, // what a person gave, and the goal has no place for
        pictures: null, // number that the preset was made for
        look: { complaints: [], remarks: [], disabled: {}, plan: null, estimate: null },
        editing: null, // a queued job's id
        looked: false, // whether the server has said anything yet
        ready: false,
    });

    const same = (a, b) => JSON.stringify(a === undefined ? null : a) === JSON.stringify(b === undefined ? null : b);
    const usual = (path) => (draft.settings[path] ? draft.settings[path].default : null);

    draft.value = (path) => (path in draft.values ? draft.values[path] : usual(path));
    draft.start = (path) => (path in draft.base ? draft.base[path] : usual(path));
    draft.isChanged = (path) => !same(draft.value(path), draft.start(path));
    draft.changed = () => Object.keys(draft.settings).filter(draft.isChanged);

    /** What a person typed, as the value it means; the server judges it. */
    draft.read = (setting, text) => {
        if (typeof text === "boolean") return text;
        const words = String(text).trim();
        if (!words) return null;
        if (setting.type === "int" || setting.type === "float") {
            return isFinite(Number(words)) ? Number(words) : words;
        }
        return words;
    };

    draft.set = (path, value) => {
        const s = draft.settings[path];
        if (value === null && s && !s.optional) delete draft.values[path];
        else draft.values[path] = value;
        draft.edited(path);
    };

    draft.reset = (path) => {
        if (path in draft.base) draft.values[path] = draft.base[path];
        else delete draft.values[path];
        draft.edited(null);
    };

    let timer = null;
    draft.edited = (path) => {
        keep();
        page.tell("values", path);
        clearTimeout(timer);
        timer = setTimeout(look, WAIT);
    };

    function keep() {
        if (draft.editing) return;
        const { goal, preset, values, base, reasons, aside } = draft;
        page.kept("draft", { goal, preset, values, base, reasons, aside });
    }

    /** All values as the server takes them: those that nobody set are its defaults. */
    draft.posted = () => Object.fromEntries(Object.entries(draft.values).filter(([path, v]) => !(v === null && usual(path) === null)));

    let asked = 0;
    async function look() {
        const mine = ++asked;
        page.tell("looking", true);
        try {
            const found = await page.ask("POST", "/look", { values: draft.posted() });
            if (mine !== asked) return;
            draft.look = { disabled: {}, ...found };
        } catch (error) {
            if (mine !== asked) return;
            const lines = error.message.split("\n").map((text) => ({ path: pathOf(text), text }));
            draft.look = { complaints: lines, remarks: [], disabled: {}, plan: null, estimate: null };
        }
        draft.looked = true;
        page.tell("look");
        page.tell("looking", false);
        const plan = draft.look.plan;
        if (plan && plan.pictures && plan.pictures !== draft.pictures && !draft.editing) await fit(plan.pictures);
    }
    draft.lookNow = look;

    function pathOf(line) {
        const head = line.split(/ = |: /)[0];
        return head in draft.settings ? head : null;
    }

    /** The preset anew, now that the number of pictures is known; what a person changed stays. */
    async function fit(pictures) {
        draft.pictures = pictures;
        if (!draft.presets.some((p) => p.name === draft.preset && p.builtin)) return;
        const found = await offered(pictures).catch(() => null);
        if (!found) return;
        const before = draft.base;
        const moved = Object.keys(found.values).filter((p) => same(draft.value(p), before[p]) && !same(found.values[p], before[p]));
        draft.base = found.values;
        draft.reasons = found.reasons || {};
        moved.forEach((path) => (draft.values[path] = found.values[path]));
        if (moved.length) draft.edited(null);
        else page.tell("values", null);
    }

    function offered(pictures) {
        const given = { goal: draft.goal, family: draft.header.family, pictures };
        const query = Object.entries(given).filter(([, v]) => v !== null && v !== undefined);
        return page.ask("GET", `/presets/${encodeURIComponent(draft.preset)}?${new URLSearchParams(query)}`);
    }

    /** Takes a preset. Folders, names and the trigger word are a person's, no preset's: they stay. */
    draft.take = async (name, goal) => {
        const before = [draft.preset, draft.goal];
        draft.preset = name;
        if (goal) draft.goal = goal;
        let found;
        try {
            found = await offered(draft.pictures);
        } catch (error) {
            [draft.preset, draft.goal] = before;
            throw error;
        }
        const own = Object.entries({ ...draft.aside, ...draft.values }).filter(([path]) => page.own(path));
        const chosen = draft.goals.find((g) => g.id === draft.goal);
        const idle = ([path]) => chosen && chosen.aside.includes(path);
        draft.aside = Object.fromEntries(own.filter(idle));
        draft.base = found.values;
        draft.reasons = found.reasons || {};
        draft.values = { ...found.values, ...Object.fromEntries(own.filter((row) => !idle(row))) };
        draft.edited(null);
    };

    /** Takes whole settings: an import, the demo, a queued job, an earlier run. They are their own base. */
    draft.load = (values) => {
        const { "output.run_dir": records, ...own } = values; // where records lie follows from the name
        draft.values = { ...own };
        draft.base = { ...own };
        draft.reasons = {};
        draft.preset = "";
        draft.pictures = null;
        draft.edited(null);
    };

    page.own = (path) => {
        const s = draft.settings[path];
        return s !== undefined && (s.type === "path" || page.OWN.includes(path));
    };
    page.OWN = ["output.output_name", "data.trigger_word", "output.card.trigger_phrase", "objective.target", "objective.positive",
        "objective.negative", "objective.action"];

    draft.open = async () => {
        const [declared, goals, presets, header] = await Promise.all(
            ["/settings", "/goals", "/presets", "/model"].map((path) => page.ask("GET", path)));
        draft.groups = declared.groups;
        draft.settings = Object.fromEntries(declared.settings.map((s) => [s.path, s]));
        Object.assign(draft, { goals, presets, header });
        draft.preset = draft.usual();
        const kept = page.kept("draft");
        if (kept && kept.values && kept.base) Object.assign(draft, kept);
        draft.ready = true;
        if (!kept || !kept.values) await draft.take(draft.preset).catch(() => draft.edited(null));
        else draft.edited(null);
    };

    /** The preset that a new page begins with. */
    draft.usual = () => (draft.presets.find((p) => p.first) || { name: "Balanced" }).name;

    /** A run that ended has taken its name: the next one is given the free one that the server names. */
    draft.heed = () => page.on("ended", async (run) => {
        const path = "output.output_name";
        if (run.result && !draft.editing && draft.value(path) === run.name) {
            const found = await page.ask("POST", "/look", { values: draft.posted() }).catch(() => ({ complaints: [] }));
            const free = found.complaints.map((c) => /; ([^;]+) is a free name$/.exec(c.text)).find(Boolean);
            if (free) draft.set(path, free[1]);
        }
        await look();
    });

    draft.listPresets = async () => {
        draft.presets = await page.ask("GET", "/presets");
        page.tell("presets");
    };
})();
