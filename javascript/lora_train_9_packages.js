// Packages that some settings need and the WebUI does not have: added and taken out again, one by one.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);

    page.packagesView = () => {
        const list = el("ul.entries");
        const notes = el("p.hint", { role: "status" });
        const box = el("details.fold.runs", { "data-says": "" }, el("summary", {}, t("Optional packages")),
            el("p.hint", {}, t("Nothing of the WebUI's own packages is changed, and each can be taken out again.")), notes, list);
        const change = (text, ask, more) => page.button(text, async () => {
            page.write(notes, t("pip is at work; this can take some minutes …"));
            try {
                const found = await ask();
                page.write(notes, found.notes.map(page.said).join(" "));
                draw(found.packages);
            } catch (error) {
                page.write(notes, "");
                throw error;
            }
        }, more);
        const row = (p) => {
            const said = p.installed ? t("installed: {version}", { version: p.installed }) : t("not installed");
            const add = !p.installed && change(t("Add"), () => page.ask("POST", "/packages", { name: p.name }), { "aria-label": `${t("Add")} ${p.title}` });
            const remove = p.ours && change(t("Remove"), () => page.ask("DELETE", `/packages?name=${encodeURIComponent(p.name)}`),
                { "aria-label": `${t("Remove")} ${p.title}` });
            return el("li.entry", { "data-says": "" }, el("div.line", {}, el("strong", {}, p.title), el("span.hint", {}, `${said} · ${page.said(p.use)}`),
                el("span.grow"), add, remove));
        };
        const draw = (packages) => page.fill(list, packages.map(row));
        box.addEventListener("toggle", async () => {
            if (!box.open) return;
            try {
                draw(await page.ask("GET", "/packages"));
            } catch (error) {
                page.say(list, error.message);
            }
        });
        return box;
    };
})();
