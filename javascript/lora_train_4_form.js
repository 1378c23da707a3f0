// The simple form: what to teach, with which pictures, how long; and what the run would be.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const FAMILIES = { sd1: "SD 1.x", sd2: "SD 2.x", sdxl: "SDXL", sd3: "SD 3" };

    // ── the model, on top ──
    page.header = () => {
        const line = el("div.header", { role: "status" });
        const draw = () => {
            const h = (page.status && page.status.model) || page.draft.header;
            if (!h || !("loaded" in h)) return;
            const kinds = { v: t("v-prediction"), epsilon: t("ε-prediction") };
            const memory = h.total_megabytes ? t("{free} of {total} free", { free: page.megabytes(h.free_megabytes), total: page.megabytes(h.total_megabytes) }) : h.device;
            const parts = h.loaded || h.name ? [h.name, FAMILIES[h.family] || h.family, kinds[h.prediction], h.ztsnr && t("zero-terminal SNR"), h.dtype,
                `${t("VAE")}: ${h.vae || t("built in")}`, memory] : [t("No model is loaded yet."), memory];
            const text = parts.filter(Boolean).join(" · ");
            const kept = h.unchanged === true ? t("model unchanged: yes") : h.unchanged === false ? t("the model was changed; load it again") : "";
            const key = JSON.stringify([text, kept, h.trainable, h.reason]);
            if (line.dataset.key === key) return;
            line.dataset.key = key;
            page.fill(line, el("span.model", { title: h.path || "" }, text), el(h.unchanged === false ? "span.kept.warn.sign" : "span.kept", {}, kept));
            if (h.trainable === false && h.reason) line.append(el("div.warn.sign", {}, page.said(h.reason)));
        };
        page.on("opened", draw);
        page.on("status", draw);
        return line;
    };

    // ── goal and preset ──
    function goals() {
        const box = el("fieldset.goals", { "data-says": "" }, el("legend", {}, t("What do you want to teach?")));
        const radios = page.draft.goals.map((goal) => {
            const radio = el("input", { type: "radio", name: "lt_goal", value: goal.id });
            radio.addEventListener("change", () => page.busy(radio, () => page.draft.take(page.draft.preset || page.draft.usual(), goal.id)));
            box.append(el("label.goal", { title: t(goal.text) }, radio, t(goal.title)));
            return radio;
        });
        const draw = () => radios.forEach((radio) => (radio.checked = Boolean(page.draft.preset) && radio.value === page.draft.goal));
        page.on("values", draw);
        draw();
        return box;
    }

    function presets() {
        const draft = page.draft;
        const choice = el("select", { id: "lt_preset" });
        choice.addEventListener("change", () => page.busy(choice, () => draft.take(choice.value)));
        const draw = () => {
            const names = draft.presets.map((p) => el("option", { value: p.name, title: t(p.text || "") }, p.builtin ? t(p.name) : p.name));
            page.fill(choice, draft.preset ? [] : el("option", { value: "" }, t("own settings")), names);
            choice.value = draft.preset;
            const chosen = draft.presets.find((p) => p.name === draft.preset);
            page.write(text, chosen ? t(chosen.text || "") : "");
            page.show(remove, chosen && !chosen.builtin);
        };
        const text = el("div.said");
        const remove = page.sure(t("Delete"), () => t("Delete the preset {name}?", { name: draft.preset }), t("Yes, delete"), async () => {
            await page.ask("DELETE", `/presets/${encodeURIComponent(draft.preset)}`);
            await draft.listPresets();
            await draft.take(draft.usual());
        }, { hidden: true });
        const holder = el("div");
        const more = el("details.more", {}, el("summary", { "aria-label": t("Preset: save, share, import") }, "…"),
            el("div.menu", {}, page.button(t("Save as…"), () => saveAs(holder)), page.button(t("Share"), share),
                page.button(t("Import…"), () => file.click()), remove));
        more.addEventListener("click", (e) => e.target.closest(".lt-menu > .lt-button") && (more.open = e.target.textContent === t("Delete")));
        more.addEventListener("keydown", (e) => e.key === "Escape" && (more.open = false));
        more.addEventListener("focusout", (e) => e.relatedTarget && !more.contains(e.relatedTarget) && (more.open = false));
        const file = el("input", { type: "file", hidden: true, accept: ".json,.toml,.safetensors" });
        file.addEventListener("change", () => page.busy(file, async () => {
            if (file.files[0]) await page.imported(file.files[0]);
            file.value = "";
        }));
        page.on("presets", draw);
        page.on("values", draw);
        draw();
        return el("div.field.preset", { "data-says": "" }, el("div.label", {}, el("label", { for: "lt_preset" }, t("Preset"))),
            el("div.line", {}, choice, more, file), holder, text);
    }

    function saveAs(holder) {
        const name = el("input", { type: "text", "aria-label": t("Name of the preset"), placeholder: t("Name of the preset") });
        const save = page.button(t("Save"), async () => {
            const words = name.value.trim();
            await page.ask("PUT", `/presets/${encodeURIComponent(words)}`, { values: page.draft.posted() });
            page.fill(holder);
            await page.draft.listPresets();
            await page.draft.take(words);
        }, { kind: "main" });
        name.addEventListener("keydown", (e) => {
            if (e.key === "Enter") save.click();
            if (e.key === "Escape") page.fill(holder);
        });
        page.fill(holder, el("div.line", {}, name, save, page.button(t("Close"), () => page.fill(holder))));
        name.focus();
    }

    /** A file to pass on: no folders of this machine, as the server keeps presets. */
    function share() {
        const values = Object.fromEntries(Object.entries(page.draft.posted()).filter(([p]) => page.draft.settings[p] && page.draft.settings[p].type !== "path"));
        const link = el("a", { href: URL.createObjectURL(new Blob([JSON.stringify(values, null, 2)], { type: "application/json" })),
            download: `${page.draft.preset || page.draft.value("output.output_name") || "preset"}.json` });
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }

    /** Of a LoRA only the header is sent: it holds the job. */
    page.imported = async (file) => {
        let part = file;
        if (/\.safetensors$/i.test(file.name)) {
            const size = new DataView(await file.slice(0, 8).arrayBuffer()).getBigUint64(0, true);
            if (size < 32 * 2 ** 20) part = file.slice(0, 8 + Number(size));
        }
        const found = await page.ask("POST", `/import?name=${encodeURIComponent(file.name)}`, part);
        const own = Object.entries(page.draft.values).filter(([path, value]) => page.own(path) && value !== null);
        page.draft.load({ ...Object.fromEntries(own), ...found.values });
        page.tell("notes", [t("{name} is imported.", { name: file.name }), ...(found.notes || [])]);
    };

    // ── fields ──
    const rate = () => (page.draft.value("lr.unet_lr") !== null ? "lr.unet_lr" : "lr.learning_rate");

    function fields() {
        const draft = page.draft;
        const instead = (other) => (value) => {
            if (value !== null && draft.value(other) !== null) draft.set(other, null);
        };
        const planned = (name) => () => {
            const plan = draft.look.plan;
            return plan && draft.value(`training.max_train_${name}`) === null ? t("comes to {n}", { n: page.number(plan[name]) }) : "";
        };
        const of = (...kinds) => ({ only: kinds });
        const list = [
            ["objective.target", { title: t("Prompt"), ...of("erase", "slider") }],
            ["objective.action", { title: t("What to do"), ...of("erase") }],
            ["objective.positive", { title: t("With this (empty: the prompt)"), ...of("erase") }],
            ["objective.positive", { title: t("More of"), ...of("slider") }],
            ["objective.negative", { title: t("Less of"), ...of("slider") }],
            ["data.train_data_dir", { title: t("Pictures"), ...of("denoise") }],
            ["output.output_name", { title: t("Name") }],
            ["data.trigger_word", { title: t("Trigger word"), typed: trigger, ...of("denoise") }],
            ["training.max_train_epochs", { ...of("denoise"), title: t("Epochs"), alone: true, hint: planned("epochs") }],
            ["training.max_train_steps", { title: t("Steps"), ...of("erase", "slider") }],
            ["training.max_train_steps", { ...of("denoise"), title: t("or steps"), alone: true, typed: instead("training.max_train_epochs"),
                hint: () => page.draft.value("training.max_train_epochs") !== null && page.draft.look.plan ? t("comes to {n}", { n: page.draft.look.plan.steps }) : "" }],
            ["data.resolution", { title: t("Size") }],
            ["network.dim", { title: t("Rank") }],
            [rate, { title: t("Learning rate") }],
            ["network.train_unet_only", { title: t("Train the text encoder"), inverse: true, ...of("denoise") }],
            ["model.pretrained_model_name_or_path", { title: t("Model"), placeholder: t("the one that is loaded") }],
        ].filter((row) => row && draft.settings[typeof row[0] === "function" ? row[0]() : row[0]]);
        const made = list.map(([path, given]) => ({ ...page.field(path, given), only: given.only }));
        const refresh = () => made.forEach((field) => {
            page.show(field.box, !field.only || field.only.includes(draft.value("objective.kind")));
            field.refresh();
        });
        page.on("values", refresh);
        page.on("look", refresh);
        const named = made.find((field) => field.path() === "data.trigger_word");
        if (named) named.box.append(tokens);
        made.filter((f) => ["data.train_data_dir", "data.trigger_word", "model.pretrained_model_name_or_path"].includes(f.path()))
            .forEach((f) => f.box.classList.add("lt-wide"));
        trigger(draft.value("data.trigger_word"));
        refresh();
        return el("div.fields", {}, presets(), made.map((field) => field.box));
    }

    const tokens = el("div.tokens", { "aria-live": "polite" });
    let waiting = null;
    function trigger(word) {
        clearTimeout(waiting);
        if (!word) return page.fill(tokens);
        waiting = setTimeout(async () => {
            const found = await page.ask("GET", `/trigger?text=${encodeURIComponent(word)}`).catch(() => null);
            if (!found) return;
            const free = found.warnings.length ? [el("span", {}, t("free words:"), " "), found.free.map((other) => page.button(other, () => {
                page.draft.set("data.trigger_word", other);
                trigger(other);
            }, { kind: "chip" }))] : [];
            page.fill(tokens, el("div", {}, t("read as"), " ", found.tokens.map((token) => el("code.token", {}, token))),
                found.warnings.map((text) => el("div.warn.sign", {}, page.said(text))), free.flat(2));
        }, 400);
        return null;
    }

    // ── what the run would be ──
    function plan() {
        const box = el("div.plan", { role: "status" });
        const measured = el("div.measured");
        const measure = page.button(t("Measure"), async () => {
            page.write(measured, t("Two steps are made to measure; this takes a moment …"));
            try {
                await page.ask("POST", "/measure", { values: page.draft.posted() });
            } finally {
                page.write(measured, "");
            }
            await page.draft.lookNow();
        }, { title: t("Makes two steps at the largest size; nothing is written.") });
        const numbers = el("div.numbers");
        const rates = el("div.rates");
        const estimate = el("div.estimate");
        const notes = el("div.notes");
        const draw = () => {
            const { plan: p, estimate: e, remarks } = page.draft.look;
            page.write(numbers, p ? sentence(p) : "");
            page.fill(rates, p && p.rates ? slope(p.rates) : []);
            const parts = e ? [e.seconds !== undefined && t("about {time}", { time: page.time(e.seconds) }),
                e.peak_megabytes && t("peak {memory}", { memory: page.megabytes(e.peak_megabytes) }),
                e.seconds_per_step && t("measured step: {n} s", { n: page.number(e.seconds_per_step) })] : [];
            page.write(estimate, e ? parts.filter(Boolean).join(" · ") : p ? t("Time and memory are not known yet for these settings.") : "");
            page.show(box, p || remarks.length);
            page.show(measure, p);
            page.fill(notes, remarks.map((r) => (r.files && r.files.length
                ? el("details.remark", {}, el("summary", {}, el("span.sign", {}, page.said(r.text))), el("ul", {}, r.files.map((file) => el("li", {}, file))))
                : el("p.remark.sign", {}, page.said(r.text)))));
        };
        page.on("look", draw);
        draw();
        return page.fill(box, numbers, rates, el("div.line", { "data-says": "" }, estimate, measure, measured), notes);
    }

    // the rates that the schedule will give, one line for each part; a rate that stays as it is needs none
    function slope(rates) {
        const lines = Object.values(rates);
        const every = lines.flat().map((point) => point[1]);
        const top = Math.max(...every);
        if (!every.length || top === Math.min(...every)) return [];
        const drawn = (name, given) => {
            const made = document.createElementNS("http://www.w3.org/2000/svg", name);
            Object.entries(given).forEach(([key, value]) => made.setAttribute(key, value));
            return made;
        };
        const last = lines[0][lines[0].length - 1][0];
        const said = t("Learning rate over the run, at most {n}", { n: top.toPrecision(2) });
        const image = drawn("svg", { viewBox: "0 0 240 40", width: 240, height: 40, role: "img", "aria-label": said });
        lines.forEach((line) => image.append(drawn("polyline", {
            fill: "none", stroke: "currentColor", points: line.map(([step, rate]) => `${(240 * step) / last},${39 - (38 * rate) / top}`).join(" ") })));
        return [image, el("span.hint", {}, said)];
    }

    function sentence(p) {
        const count = (n) => (Array.isArray(n) ? n.length : n);
        return [
            !p.pictures ? page.said(p.text) : t("{pictures} pictures × {repeats} repeats → {buckets} → {each} steps an epoch × {epochs} = {steps} steps", {
                pictures: p.pictures, repeats: page.number(p.repeats), buckets: count(p.buckets) === 1 ? t("1 bucket") : t("{n} buckets", { n: count(p.buckets) }), each: page.number(p.steps_per_epoch),
                epochs: page.number(p.epochs), steps: p.steps }),
            t("{n} images seen", { n: p.images }),
            t("saves: {n}", { n: count(p.saves) }),
            t("samples: {n}", { n: count(p.draws) }),
            p.disk && t("{n} on disk, {free} free", { n: page.megabytes(p.disk.megabytes), free: page.megabytes(p.disk.free_megabytes) }),
        ].filter(Boolean).join(" · ");
    }

    // ── start ──
    function start() {
        const draft = page.draft;
        const list = el("ul.complaints", { role: "alert" });
        const queue = page.button(t("Add to queue"), () => send(false));
        const begin = page.button(t("Start training"), () => send(true), { kind: "main" });
        const save = page.button(t("Save changes"), async () => {
            await page.ask("PUT", `/queue/${encodeURIComponent(draft.editing)}`, { values: draft.posted() });
            page.edit(null);
        }, { kind: "main" });
        const cancel = page.button(t("Cancel"), () => page.edit(null));
        const draw = () => {
            const wrong = draft.look.complaints;
            // with no pictures yet there is a word beside their field, and nothing to be alarmed about
            const begun = wrong.filter((c) => !page.ASKED.includes(c.path) || draft.value(c.path));
            page.fill(list, begun.map((c) => el("li", {}, page.button(page.said(c.text), () => page.seek(c.path), { kind: "plain" }))));
            [queue, begin, save].forEach((b) => (b.disabled = wrong.length > 0 || !draft.looked));
            [queue, begin].forEach((b) => page.show(b, !draft.editing));
            [save, cancel].forEach((b) => page.show(b, draft.editing));
        };
        page.on("look", draw);
        page.on("editing", draw);
        draw();
        const wait = el("span.hint", { role: "status" });
        let slow = null;
        page.on("looking", (on) => {
            clearTimeout(slow);
            if (on) slow = setTimeout(() => page.write(wait, t("Looking at pictures and settings …")), 1500);
            else page.write(wait, "");
        });
        return el("div.start", { "data-says": "" }, list, el("div.line.end", {}, wait, queue, begin, cancel, save));
    }

    async function send(now) {
        page.askToNotify();
        await page.ask("POST", "/queue", { values: page.draft.posted(), start: now });
        page.folded = null;
        await page.refreshed();
    }

    /** The WebUI's list of checkpoints was made before this one was there. */
    function chosen(title) {
        const refresh = document.querySelector("#refresh_sd_model_checkpoint");
        if (!title || !refresh || !window.selectCheckpoint) return;
        refresh.click();
        setTimeout(() => window.selectCheckpoint(title), 1500);
    }

    // ── nothing there yet ──
    function teach() {
        const demo = page.button(t("Fill in the demo"), async () => {
            const found = await page.ask("POST", "/demo");
            page.draft.load(found.values);
            page.tell("notes", found.notes || []);
            chosen(found.checkpoint);
            page.draft.header = await page.ask("GET", "/model");
            page.tell("opened");
        });
        const box = el("div.teach", { "data-says": "" },
            el("p", {}, t("Put 10 to 50 pictures into one folder. What a picture shows may stand beside it, in a text file of the same name:")),
            el("pre", {}, "okara\\\n   0001.png\n   0001.txt   okara, a fox sitting in the snow\n   0002.jpg\n   0002.txt   okara, close-up of the face"),
            el("div.line", {}, el("span", {}, t("To see how it goes, try the 28 drawings that come along:")), demo));
        const some = () => Object.keys(page.draft.values).some((path) => path.startsWith("data.datasets."));
        const draw = () => page.show(box, page.draft.value("objective.kind") === "denoise" && !page.draft.value("data.train_data_dir") && !some()
            && !page.draft.editing);
        page.on("values", draw);
        draw();
        return box;
    }

    function told() {
        const box = el("div.told", { role: "status" });
        page.on("notes", (notes) => page.fill(box, notes.map((text) => el("p", {}, page.said(text))),
            notes.length ? page.button(t("Close"), () => page.fill(box), { kind: "plain" }) : []));
        return box;
    }

    page.form = () => el("div.form", {}, goals(), told(), teach(), fields(), page.allSettings(), plan(), start());
})();
