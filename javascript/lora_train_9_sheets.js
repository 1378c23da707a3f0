// Sheets: the strengths of a result, and the files of a run side by side, as the server draws them.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);

    const KINDS = { strengths: "Strength grid", files: "Compare files" };

    /** The buttons that draw them. */
    page.sheetButtons = (name) => Object.entries(KINDS).map(([what, text]) => page.button(t(text), async () => {
        await page.ask("POST", `/runs/${encodeURIComponent(name)}/sheet`, { what });
        await page.refreshed();
    }));

    page.sheetView = () => {
        const title = el("h3");
        const state = el("p.hint", { role: "status" });
        const stop = page.button(t("Stop"), async () => {
            await page.ask("POST", "/sheet/stop");
            await page.refreshed();
        }, { kind: "danger" });
        const close = page.button("×", () => {
            page.kept("sheet closed", shown);
            page.show(box, false);
        }, { kind: "plain", "aria-label": t("Close") });
        const image = el("img", { alt: "", decoding: "async" });
        const link = el("a", { target: "_blank", rel: "noopener", title: t("Open in full size") }, image);
        const box = el("section.sheet", { hidden: true, "data-says": "", "aria-label": t("Sheet") },
            el("div.line.top", {}, title, el("span.grow"), stop, close), state, link);
        let shown = "";
        page.on("status", ({ sheet }) => {
            shown = sheet ? `${sheet.name} ${sheet.url || sheet.state}` : "";
            page.show(box, sheet && page.kept("sheet closed") !== shown);
            if (!sheet) return;
            const drawing = sheet.state === "drawing";
            page.write(title, KINDS[sheet.what] ? `${sheet.run} · ${t(KINDS[sheet.what])}` : sheet.name);
            page.write(state, drawing ? t("Drawing picture {n} of {of} …", { n: sheet.done + 1, of: sheet.of })
                : sheet.state === "stopped" ? t("Stopped; nothing was drawn to its end.") : sheet.error ? page.said(sheet.error)
                    : sheet.suggestion || "");
            state.classList.toggle("lt-warn", Boolean(sheet.error));
            page.show(state, state.textContent);
            page.show(stop, drawing);
            page.show(close, !drawing);
            page.show(link, sheet.url);
            const address = sheet.url ? page.picture(sheet.url) : "";
            if (address && image.getAttribute("src") !== address) {
                image.src = link.href = address;
                image.alt = title.textContent;
            }
        });
        return box;
    };
})();
