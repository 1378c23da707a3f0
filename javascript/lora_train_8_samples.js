// Pictures that a run drew: a slider over the steps, the prompts, and the same seed without the LoRA.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);

    page.samples = () => {
        const slider = el("input", { type: "range", min: 0, max: 0, step: 1, "aria-label": t("Step of the sample") });
        const at = el("output.at");
        const prompts = el("div.line.prompts", { role: "group", "aria-label": t("Prompts") });
        const now = el("img", { alt: "", decoding: "async" });
        const base = el("img", { alt: "", decoding: "async" });
        const left = el("figure", {}, now, el("figcaption", {}, t("with the LoRA")));
        const right = el("figure", {}, base, el("figcaption", {}, t("same seed, without the LoRA")));
        const words = el("p.prompt");
        const text = el("details.fold", { hidden: true }, el("summary", {}, t("How it was drawn")), el("pre"));
        const send = page.button(t("Send to txt2img"), () => page.pasted(shown.infotext), { hidden: true });
        const wait = el("p.hint", {}, t("Samples appear here as they are drawn."));
        const full = el("div", {}, el("div.line", {}, slider, at), prompts, el("div.pictures", {}, left, right), words, el("div.line", { "data-says": "" }, send), text);
        const box = el("div.samples", {}, wait, full);
        let all = [];
        let follow = true;
        let number = null;
        let shown = {};
        let of = null;
        let key = "";

        const steps = () => [...new Set(all.map((s) => s.step))].sort((a, b) => a - b);
        const set = (img, url) => {
            const address = url ? page.picture(url) : "";
            if (address && img.getAttribute("src") !== address) img.src = address;
            page.show(img.parentElement, address);
        };
        const draw = () => {
            page.show(wait, !all.length);
            page.show(full, all.length);
            if (!all.length) return;
            const there = steps();
            slider.max = there.length - 1;
            if (follow) slider.value = there.length - 1;
            const step = there[Math.min(Number(slider.value), there.length - 1)];
            const here = all.filter((s) => s.step === step);
            shown = here.find((s) => s.number === number) || here[0];
            const when = step ? t("step {step}", { step }) : t("before the first step");
            page.write(at, when);
            slider.setAttribute("aria-valuetext", when);
            page.show(slider, there.length > 1);
            if (prompts.dataset.key !== JSON.stringify([here.map((s) => s.number), shown.number])) {
                prompts.dataset.key = JSON.stringify([here.map((s) => s.number), shown.number]);
                const held = prompts.contains(document.activeElement);
                page.fill(prompts, here.length < 2 ? [] : here.map((s, i) => page.button(String(i + 1), () => {
                    number = s.number;
                    draw();
                }, { kind: "chip", title: s.prompt, "aria-pressed": String(s === shown), "aria-label": t("prompt {n}", { n: i + 1 }) })));
                if (held) prompts.querySelector('[aria-pressed="true"]')?.focus();
            }
            set(now, shown.url);
            set(base, shown.base_url);
            now.alt = shown.prompt || "";
            base.alt = t("same seed, without the LoRA");
            page.write(words, shown.prompt || "");
            page.write(text.lastChild, shown.infotext || "");
            page.show(text, shown.infotext);
            page.show(send, shown.infotext && page.webui());
        };
        slider.addEventListener("input", () => {
            follow = Number(slider.value) === Number(slider.max);
            draw();
        });
        page.on("status", (status) => {
            const run = status.run;
            if (!run) return;
            if (run.id !== of) [of, follow, number] = [run.id, true, null];
            const fresh = JSON.stringify([run.id, run.samples]);
            if (fresh === key) return;
            key = fresh;
            all = run.samples || [];
            draw();
        });
        return box;
    };

    // ── into txt2img ──
    const host = () => (window.gradioApp ? window.gradioApp() : document);

    page.prompted = (text) => {
        const prompt = host().querySelector("#txt2img_prompt textarea");
        if (!prompt) throw new Error(t("The txt2img tab is not there."));
        prompt.value = text;
        window.updateInput(prompt);
        window.switch_to_txt2img();
        return prompt;
    };

    /** As the host's own "read parameters from the prompt" button does it. */
    page.pasted = (infotext) => {
        page.prompted(infotext);
        const read = host().querySelector("#txt2img_tools #paste, #paste");
        if (read) setTimeout(() => read.click(), 200);
    };
})();
