// One cell of a sheet: in full size, beside its base picture, with its numbers and all that draws it again.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);

    /** cell: of a sheet; about: {sheet, words(cell), most: {score: number}, order: cells as they are read}. */
    page.cell = (cell, { sheet, words, most, order }) => {
        const title = el("h3");
        const [image, base] = [el("img", { alt: "", decoding: "async" }), el("img.base", { alt: "", decoding: "async" })];
        const figure = el("div.full", {}, base, image);
        const ways = el("div.line.prompts", { role: "group", "aria-label": t("What is shown") });
        const scores = el("div");
        const text = el("pre");
        const said = el("span.hint", { role: "status" });
        const link = el("a", { target: "_blank", rel: "noopener" }, t("Open in full size"));
        const send = page.webui() ? page.button(t("Send to txt2img"), () => {
            page.pasted(now.infotext);
            box.close();
        }, { kind: "main" }) : null;
        const copy = page.button(t("Copy the prompt"), async () => {
            await navigator.clipboard.writeText(now.infotext);
            page.write(said, t("Copied."));
        });
        const close = page.button("×", () => box.close(), { kind: "plain", "aria-label": t("Close") });
        const [back, next] = [page.button("←", () => step(-1), { "aria-label": t("The cell before") }), page.button("→", () => step(1), { "aria-label": t("The next cell") })];
        const box = el("dialog.cell", { "aria-label": t("Cell"), "data-says": "" }, el("div.line.top", {}, title, el("span.grow"), back, next, close),
            el("div.two", {}, el("div", {}, ways, figure), el("div", {}, scores, el("h4", {}, t("How it was drawn")), text, el("div.line", {}, send, copy, link, said))));
        let [now, way] = [cell, "with"];

        const show = (which) => {
            way = now.base_url ? which : "with";
            page.show(image, way !== "base");
            page.show(base, way !== "with");
            figure.classList.toggle("lt-differs", way === "difference");
            [...ways.children].forEach((chip) => chip.setAttribute("aria-pressed", String(chip.dataset.way === way)));
        };
        const draw = () => {
            page.write(title, words(now) || sheet.name || "");
            image.src = link.href = page.picture(now.url);
            image.alt = words(now);
            if (now.base_url) base.src = page.picture(now.base_url);
            page.show(ways, now.base_url);
            const seconds = now.seconds === null || now.seconds === undefined ? null : t("{n} s", { n: page.number(now.seconds) });
            page.fill(scores, page.scoreBars(now.metrics, most), seconds ? el("p.hint", {}, t("Drawn in {time}.", { time: seconds })) : null);
            page.write(text, now.infotext || "");
            page.write(said, "");
            const i = order.indexOf(now);
            [back.disabled, next.disabled] = [i <= 0, i >= order.length - 1];
            show(way);
        };
        const step = (by) => {
            now = order[order.indexOf(now) + by] || now;
            draw();
        };
        const chips = [["with", t("this cell")], ["base", t("the base picture")], ["difference", t("the difference")]];
        ways.append(...chips.map(([id, label]) => page.button(label, () => show(id), { kind: "chip", "data-way": id })));
        box.addEventListener("keydown", (event) => {
            const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
            if (by) step(by);
        });
        box.addEventListener("click", (event) => event.target === box && box.close()); // beside it
        box.addEventListener("close", () => box.remove());
        page.root.append(box);
        draw();
        box.showModal();
        return box;
    };
})();
