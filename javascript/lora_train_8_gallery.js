// The gallery of the room Dataset: only what is in sight is drawn, and asked for; a cursor, and pictures that are chosen.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const CHUNK = 100; // pictures that are asked for at once
    const KEPT = 60; // such answers that are held
    const REST = 90; // milliseconds without scrolling before something is asked for
    const SPARE = 2; // rows beyond the edges that are drawn as well
    const [GAP, UNDER, SMALL, WIDE, LEAST] = [8, 42, 104, 138, 128]; // pixels: between, below a picture, least width on a narrow and a wide page, and where a bucket has room
    let count = 0;

    /** Where a browser finds a picture, or a copy of so many pixels; another address when the file is another. */
    page.pictureOf = (row, width) => page.url(`/file?path=${encodeURIComponent(row.path)}${width ? `&width=${width}` : ""}&changed=${row.changed}`);

    /**
     * given.items(begin, count): asks for {total, items}, rows of the server.
     * given.names(): asks for the names of all. given.shown(item): the cursor went there. given.changed(): others are chosen.
     * given.edit(): Enter. given.typed(letter): a key that begins a filter.
     *
     * Gives {element, again(keep), chosen(), total(), none(), choose(names), go(index), step(by), focus()}.
     */
    page.gallery = (given) => {
        const own = `lt_gallery_${++count}`;
        const canvas = el("div.wall", { role: "presentation" });
        const element = el("div.gallery", { role: "listbox", tabindex: "0", "aria-multiselectable": "true", "aria-label": t("Pictures") }, canvas);
        let [total, columns, side, high, cursor, anchor, all] = [0, 1, WIDE, 1, -1, -1, false];
        let chosen = new Set();
        let [asking, timer, moved] = [0, null, 0];
        const chunks = new Map(); // number -> items, null while they are asked for; the one used last stands last
        const cells = new Map(); // index -> cell

        const item = (index) => {
            const some = chunks.get(Math.floor(index / CHUNK));
            return some ? some[index % CHUNK] : undefined;
        };
        const isChosen = (one) => all || chosen.has(one.name);

        // ── drawing ──
        function measured() {
            const width = canvas.clientWidth;
            if (!width) return false;
            const least = width < 560 ? SMALL : WIDE;
            columns = Math.max(2, Math.floor((width + GAP) / (least + GAP)));
            side = Math.floor((width - GAP * (columns - 1)) / columns);
            high = side + UNDER + GAP;
            element.classList.toggle("lt-narrow", side < LEAST);
            canvas.style.height = `${Math.max(0, Math.ceil(total / columns) * high - GAP)}px`;
            return true;
        }
        const inSight = (spare) => {
            const first = Math.max(0, Math.floor(element.scrollTop / high) - spare) * columns;
            const last = (Math.ceil((element.scrollTop + element.clientHeight) / high) + spare) * columns;
            return [first, Math.min(total, last)];
        };
        function draw() {
            const [first, last] = inSight(SPARE);
            for (const [index, cell] of cells) if (index < first || index >= last) drop(index, cell);
            for (let i = first; i < last; i++) if (!cells.has(i)) put(i);
            clearTimeout(timer);
            timer = setTimeout(settle, Date.now() - moved < REST ? REST : 0);
        }
        function drop(index, cell) {
            const image = cell.querySelector("img");
            if (image) image.removeAttribute("src"); // else what is on its way is still waited for
            cell.remove();
            cells.delete(index);
        }
        function put(index) {
            const cell = el("div.frame", { role: "option", id: `${own}_${index}`, "aria-posinset": index + 1, "aria-setsize": total, "aria-selected": "false" });
            cell.style.cssText = `width:${side}px;height:${high - GAP}px;transform:translate(${(index % columns) * (side + GAP)}px,${Math.floor(index / columns) * high}px)`;
            cells.set(index, cell);
            canvas.append(cell);
            dress(index, cell);
        }
        function dress(index, cell) {
            const one = item(index);
            cell.classList.toggle("lt-at", index === cursor);
            if (!one) return;
            cell.setAttribute("aria-selected", String(isChosen(one)));
            cell.setAttribute("aria-setsize", total);
            const key = JSON.stringify(one);
            if (cell.dataset.key === key) return;
            cell.dataset.key = key;
            page.fill(cell, el("div.pane", {}, pictured(one, cell), el("span.tick", { "aria-hidden": "true" }), el("div.badges", {}, badges(one))), el("div.under-name", {}, el("span.file-name", { title: one.name }, one.name.replace(/^.*\//, ""))),
                el("div.under-name", {}, el("span.hint", { title: one.bucket ? t("bucket {size}", { size: one.bucket.join("×") }) : null }, one.size ? one.size.join("×") : t("unreadable"),
                one.bucket ? el("span.bucket", {}, ` → ${one.bucket.join("×")}`) : null)));
            cell.setAttribute("aria-label", [one.name, one.captioned ? one.caption : t("no caption"), ...one.problems.map((kind) => page.kindOf(kind))].join(", "));
        }
        /** The same element where the picture is the same, so that it does not flicker. */
        function pictured(one, cell) {
            const [url, before] = [page.pictureOf(one, 256), cell.querySelector("img")];
            if (before && before.dataset.of === url) return before;
            const image = el("img", { alt: "", draggable: "false", decoding: "async", "data-of": url,
                onerror: () => image.replaceWith(el("span.gone", {}, t("cannot be shown"))) });
            return image;
        }
        const badges = (one) => [
            page.grave(one.problems).length ? el("span.badge.sign.bad", { title: one.problems.map((kind) => page.kindOf(kind)).join(", ") }, String(page.grave(one.problems).length)) : null,
            one.captioned ? null : el("span.badge", {}, t("no caption")),
            one.loss === null || one.loss === undefined ? null : el("span.badge", { title: t("its loss in the run, against what is usual") }, `×${page.number(one.loss, 3)}`),
        ];
        function dressed() {
            for (const [index, cell] of cells) dress(index, cell);
            if (cells.has(cursor)) element.setAttribute("aria-activedescendant", `${own}_${cursor}`);
            else element.removeAttribute("aria-activedescendant");
        }

        // ── asking ──
        async function settle() {
            const [first, last] = inSight(1);
            for (let k = Math.floor(first / CHUNK); k <= Math.floor(Math.max(first, last - 1) / CHUNK); k++) void chunk(k);
            for (const [index, cell] of cells) {
                const one = item(index);
                const image = cell.querySelector("img");
                if (one && image && !image.hasAttribute("src")) image.src = image.dataset.of;
            }
        }
        async function chunk(k) {
            if (chunks.has(k)) {
                const some = chunks.get(k);
                chunks.delete(k);
                chunks.set(k, some);
                return;
            }
            const mine = asking;
            chunks.set(k, null);
            try {
                const found = await given.items(k * CHUNK, CHUNK);
                if (mine !== asking) return;
                chunks.set(k, found.items);
                for (const old of chunks.keys()) if (chunks.size > KEPT) chunks.delete(old);
                if (found.total !== total) resized(found.total);
                dressed();
                void settle();
                if (Math.floor(cursor / CHUNK) === k) tell();
                page.say(element, "");
            } catch (error) {
                if (mine !== asking) return;
                chunks.delete(k);
                page.say(element, error.message);
            }
        }
        function resized(now) {
            total = now;
            if (cursor >= total) cursor = total - 1;
            measured();
            draw();
        }

        // ── the cursor ──
        let told = null;
        function tell() {
            const one = cursor < 0 ? null : item(cursor);
            if (one === undefined || (told && one && told === one)) return; // not there yet, or the same
            told = one;
            given.shown(one);
        }
        function go(index, how) {
            if (!total) return;
            cursor = Math.max(0, Math.min(total - 1, index));
            const top = Math.floor(cursor / columns) * high;
            if (top < element.scrollTop) element.scrollTop = top;
            else if (top + high > element.scrollTop + element.clientHeight) element.scrollTop = top + high - element.clientHeight;
            if (how === "extend") void range();
            else anchor = cursor;
            draw();
            dressed();
            void chunk(Math.floor(cursor / CHUNK));
            tell();
        }
        async function range() {
            const [from, to] = [Math.min(anchor < 0 ? cursor : anchor, cursor), Math.max(anchor, cursor)];
            let names = [];
            for (let i = from; i <= to; i++) names.push(item(i) && item(i).name);
            if (names.some((name) => !name)) names = (await given.names()).slice(from, to + 1);
            [all, chosen] = [false, new Set(names)];
            choose();
        }
        function choose() {
            dressed();
            given.changed();
        }
        async function toggle(index) {
            const one = item(index);
            if (!one) return;
            if (all) [all, chosen] = [false, new Set(await given.names())];
            if (!chosen.delete(one.name)) chosen.add(one.name);
            choose();
        }
        const fail = (error) => page.say(element, error.message);

        // ── hands ──
        element.addEventListener("scroll", () => {
            moved = Date.now();
            requestAnimationFrame(draw);
        }, { passive: true });
        element.addEventListener("click", (event) => {
            const cell = event.target.closest(".lt-frame");
            if (!cell) return;
            const index = Number(cell.id.slice(own.length + 1));
            const ticked = event.ctrlKey || event.metaKey || event.target.closest(".lt-tick");
            go(index, event.shiftKey ? "extend" : null);
            if (ticked) toggle(index).catch(fail);
        });
        element.addEventListener("dblclick", (event) => event.target.closest(".lt-frame") && given.edit());
        const rows = () => Math.max(1, Math.floor(element.clientHeight / high));
        const STEPS = { ArrowRight: () => cursor + 1, ArrowLeft: () => cursor - 1, ArrowDown: () => cursor + columns, ArrowUp: () => cursor - columns,
            Home: () => 0, End: () => total - 1, PageDown: () => cursor + rows() * columns, PageUp: () => cursor - rows() * columns };
        element.addEventListener("keydown", (event) => {
            const { key, shiftKey } = event;
            const held = event.ctrlKey || event.metaKey;
            if (event.altKey) return;
            if (STEPS[key] && !held) go(STEPS[key](), shiftKey ? "extend" : null);
            else if (key === " ") toggle(cursor).catch(fail);
            else if (held && key.toLowerCase() === "a") everything();
            else if (key === "Escape" && (all || chosen.size)) none();
            else if (key === "Enter" && cursor >= 0) given.edit();
            else if (!held && key.length === 1 && key !== "/") given.typed(key); // "/" is the room's
            else return;
            event.preventDefault();
            event.stopPropagation();
        });
        const everything = () => {
            [all, chosen] = [total > 0, new Set()];
            choose();
        };
        const none = () => {
            [all, chosen] = [false, new Set()];
            choose();
        };
        new ResizeObserver(() => {
            const before = [columns, side].join();
            if (!measured() || [columns, side].join() === before) return void (canvas.clientWidth && draw());
            for (const [index, cell] of cells) drop(index, cell);
            draw();
        }).observe(element);

        /** Others, or the same anew. keep: the cursor and what is chosen stay, by their places and names. */
        const again = async (keep) => {
            asking++;
            chunks.clear();
            told = null;
            if (!keep) {
                [cursor, anchor, all, chosen] = [-1, -1, false, new Set()];
                element.scrollTop = 0;
            }
            const mine = asking;
            const [at] = keep ? inSight(0) : [0];
            const found = await given.items(Math.floor(at / CHUNK) * CHUNK, CHUNK);
            if (mine !== asking) return;
            chunks.set(Math.floor(at / CHUNK), found.items);
            resized(found.total);
            dressed();
            if (cursor >= 0) {
                void chunk(Math.floor(cursor / CHUNK));
                tell();
            } else given.shown(null);
            choose();
        };
        const choosing = (names) => {
            [all, chosen] = [false, new Set(names)];
            choose();
        };
        return { element, again, go, none, choose: choosing, step: (by) => go(cursor + by), total: () => total, at: () => cursor,
            chosen: () => ({ all, names: [...chosen], count: all ? total : chosen.size }), focus: () => element.focus({ preventScroll: true }) };
    };
})();
