// The page's rooms: Train, and beside it what other files bring; one is shown, and drawn when it is first asked for.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const rooms = []; // in the order of their files' names

    /** make: called once, when a person first goes there; gives the element. */
    page.room = (id, title, make) => rooms.push({ id, title, make });

    /** The bar of tabs and what is behind them. train: the element of the first, which is there already. */
    page.rooms = (train) => {
        const every = [{ id: "train", title: "Train", make: () => train }, ...rooms];
        const bar = el("div.rooms", { role: "tablist", "aria-label": page.t("Rooms") });
        const box = el("div.house", { "data-says": "" }, bar);
        const panels = every.map((room) => el("div.room", { role: "tabpanel", id: `lt_room_${room.id}`, "aria-labelledby": `lt_tab_${room.id}`, hidden: true }));
        const tabs = every.map((room) => el("button.tab", { type: "button", role: "tab", id: `lt_tab_${room.id}`, "aria-controls": `lt_room_${room.id}`,
            onclick: () => page.go(room.id), onkeydown: moved }, page.t(room.title)));

        function moved(event) {
            const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
            if (!step) return;
            const next = (tabs.indexOf(event.target) + step + tabs.length) % tabs.length;
            page.go(every[next].id);
            tabs[next].focus();
        }

        page.go = (id) => {
            const at = Math.max(0, every.findIndex((room) => room.id === id));
            page.kept("room", every[at].id);
            if (!panels[at].firstChild) panels[at].append(every[at].make());
            tabs.forEach((tab, i) => {
                tab.setAttribute("aria-selected", String(i === at));
                tab.tabIndex = i === at ? 0 : -1;
                page.show(panels[i], i === at);
            });
            page.tell("room", every[at].id);
        };
        bar.append(...tabs);
        box.append(...panels);
        page.show(bar, rooms.length);
        page.go(page.kept("room") || "train");
        return box;
    };
})();
