// "All settings": every setting there is on one page that can be searched.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);

    page.allSettings = () => {
        const draft = page.draft;
        const summary = el("summary");
        const count = el("span.count");
        const body = el("div.all", { role: "group", "aria-label": t("All settings") });
        const box = el("details.settings", {}, summary, body);
        const fields = [];
        const groups = [];
        const search = el("input", { type: "search", placeholder: t("Search, such as rank or noise"), "aria-label": t("Search the settings") });
        const only = el("input", { type: "checkbox", id: "lt_only_changed" });
        const none = el("p.hint", { hidden: true }, t("Nothing has this name. Try another word."));

        const build = () => {
            if (fields.length) return;
            body.append(el("div.line.search", {}, search, el("label", { for: "lt_only_changed" }, only, t("only what differs"))), none);
            for (const group of draft.groups) {
                const own = Object.values(draft.settings).filter((s) => s.group === group.name);
                if (!own.length) continue;
                const made = own.map((s) => page.field(s.path, { row: true }));
                fields.push(...made);
                const section = el("section.group", {}, el("h4", {}, t(group.title)), made.map((f) => f.box));
                groups.push([section, made]);
                body.append(section);
            }
            filter();
        };
        const filter = () => {
            const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
            let seen = 0;
            for (const [section, made] of groups) {
                let some = false;
                for (const field of made) {
                    const fits = words.every((word) => field.text().includes(word)) && (!only.checked || draft.isChanged(field.path()));
                    page.show(field.box, fits);
                    some = some || fits;
                }
                page.show(section, some);
                seen += some ? 1 : 0;
            }
            page.show(none, !seen);
        };
        const refresh = () => {
            page.write(summary.firstChild, `${t("All settings ({n})", { n: Object.keys(draft.settings).length })}`);
            const changed = draft.changed().filter((path) => !page.own(path)).length;
            page.write(count, changed ? t("changed from the preset: {n}", { n: changed }) : "");
            if (box.open) fields.forEach((field) => field.refresh());
        };
        summary.append(el("span"), " ", count);
        box.addEventListener("toggle", () => {
            if (!box.open) return;
            build();
            refresh();
        });
        search.addEventListener("input", filter);
        only.addEventListener("change", filter);
        page.on("values", refresh);
        page.on("look", refresh);

        /** Brings a setting's field into view: the simple form's, or the one here. */
        page.seek = (path) => {
            const at = `.lt-fields .lt-field:not([hidden])[data-path="${CSS.escape(path || "")}"]`;
            const simple = page.root.querySelector(`${at} input, ${at} select`);
            if (simple) return simple.focus();
            box.open = true;
            build();
            search.value = "";
            only.checked = false;
            filter();
            const field = fields.find((f) => f.path() === path);
            if (field) {
                field.refresh();
                field.box.scrollIntoView({ block: "center" });
                field.input.focus();
            }
            return null;
        };
        refresh();
        return box;
    };
})();
