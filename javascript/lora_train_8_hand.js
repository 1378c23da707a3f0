// What is done to one picture by hand: a box dragged to crop it, a brush for its mask or for what is to be erased.
(function () {
    "use strict";

    const page = window.loraTrain;
    const { el } = page;
    const t = (...given) => page.t(...given);
    const LONGEST = 2048; // pixels of what is painted on; larger ones are painted on in smaller
    const READ = /\.(png|jpe?g|webp)$/i; // what a browser is given as it is
    const LEAST = 16; // pixels of a crop

    /** A window over the page, with the picture in it. */
    function opened(row, title, ...beside) {
        const stage = el("div.easel");
        const side = el("div.beside-easel", {}, ...beside);
        const close = page.button("×", () => box.close(), { kind: "plain", "aria-label": t("Close") });
        const box = el("dialog.cell.hand", { "aria-label": title, "data-says": "" }, el("div.line.top", {}, el("h3.file-name", {}, `${title}: ${row.name}`), el("span.grow"), close), stage, side);
        const image = el("img", { src: page.pictureOf(row, READ.test(row.name) ? 0 : LONGEST), alt: row.name, draggable: "false" });
        box.addEventListener("close", () => box.remove());
        box.addEventListener("keydown", (event) => event.stopPropagation()); // the room's keys rest
        page.root.append(box);
        box.showModal();
        return { box, stage, side, image };
    }

    // ── crop ──
    /** done([left, top, width, height], copy): in pixels of the picture; copy: it stays, and what is cut out is beside it. */
    page.cropper = (row, done) => {
        const [wide, high] = row.size;
        const shapes = [["", t("any shape")], ["1:1", "1:1"], ["2:3", "2:3"], ["3:2", "3:2"], ["3:4", "3:4"], ["4:3", "4:3"], ["9:16", "9:16"], ["16:9", "16:9"]];
        if (row.fit) shapes.splice(1, 0, [row.fit.bucket.join(":"), t("its bucket, {size}", { size: row.fit.bucket.join("×") })]);
        const shape = el("select", { "aria-label": t("Shape") }, shapes.map(([value, text]) => el("option", { value }, text)));
        const fields = ["left", "top", "width", "height"].map((name) => el("input", { type: "text", inputmode: "numeric", "aria-label": t(name) }));
        const said = el("p.hint", { role: "status" });
        const copy = el("input", { type: "checkbox" });
        const { box, stage, side, image } = opened(row, t("Crop"));
        const frame = el("div.crop-frame", { tabindex: "0", role: "group", "aria-label": t("What stays. Arrow keys move it, with Shift they make it larger or smaller.") },
            ["nw", "n", "ne", "e", "se", "s", "sw", "w"].map((at) => el("span.grip", { "data-grip": at })));
        const canvas = el("div.shown.cropping", {}, image, frame);
        stage.append(canvas);
        const go = page.button(t("Crop it"), async () => {
            await done(whole(), copy.checked);
            box.close();
        }, { kind: "main" });
        side.append(el("div.line", {}, el("label.named", {}, t("Shape"), shape), fields.map((input, i) => el("label.named", {}, t(["left", "top", "width", "height"][i]), input)), el("label.goal", {}, copy, t("as a copy; the picture stays")), el("span.grow"), go), said);
        const whole = () => {
            const [x, y, w, h] = crop.map(Math.round);
            return [Math.min(x, wide - w), Math.min(y, high - h), w, h];
        };
        let crop = row.fit && row.fit.crop[2] ? [...row.fit.crop] : [0, 0, wide, high];
        const ratio = () => {
            const [a, b] = shape.value.split(":").map(Number);
            return b ? a / b : null;
        };
        const clamp = (x, low, most) => Math.min(most, Math.max(low, x));
        /** Into the picture, in the shape that is wanted; anchor: the corner (0 to 1 across and down) that stays. */
        function put([x, y, w, h], anchor = [0.5, 0.5]) {
            const of = ratio();
            const [right, down] = [x + w * anchor[0], y + h * anchor[1]];
            if (of && w / h > of) w = h * of;
            else if (of) h = w / of;
            const most = Math.min(1, wide / w, high / h);
            const least = of ? Math.max(LEAST / w, LEAST / h, 1) : 1;
            [w, h] = of ? [w * most * least, h * most * least] : [clamp(w, Math.min(LEAST, wide), wide), clamp(h, Math.min(LEAST, high), high)];
            [w, h] = [Math.min(w, wide), Math.min(h, high)];
            crop = [clamp(right - w * anchor[0], 0, wide - w), clamp(down - h * anchor[1], 0, high - h), w, h];
            draw();
        }
        function draw() {
            const [x, y, w, h] = crop;
            frame.style.cssText = `left:${(100 * x) / wide}%;top:${(100 * y) / high}%;width:${(100 * w) / wide}%;height:${(100 * h) / high}%`;
            fields.forEach((input, i) => document.activeElement !== input && (input.value = String(Math.round(crop[i]))));
            const scale = row.fit ? Math.max(row.fit.bucket[0] / w, row.fit.bucket[1] / h) : null;
            const small = row.fit && w * h < row.fit.bucket[0] * row.fit.bucket[1];
            page.write(said, [t("{w} × {h} pixels stay.", { w: Math.round(w), h: Math.round(h) }), small ? t("That is less than is trained on: it would be enlarged to {part} %.", { part: Math.round(100 * Math.min(scale, Math.sqrt((row.fit.bucket[0] * row.fit.bucket[1]) / (w * h)))) }) : ""].filter(Boolean).join(" "));
            said.classList.toggle("lt-warn", Boolean(small));
        }
        const point = (event) => {
            const area = canvas.getBoundingClientRect();
            return [clamp((event.clientX - area.left) / area.width, 0, 1) * wide, clamp((event.clientY - area.top) / area.height, 0, 1) * high];
        };
        canvas.addEventListener("pointerdown", (event) => {
            if (event.button) return;
            const [grip, [px, py], begin] = [event.target.dataset.grip, point(event), [...crop]];
            const inside = event.target === frame;
            event.preventDefault();
            canvas.setPointerCapture(event.pointerId);
            const move = (now) => {
                const [x, y] = point(now);
                if (inside) return put([begin[0] + x - px, begin[1] + y - py, begin[2], begin[3]]);
                let [l, u, r, d] = grip ? [begin[0], begin[1], begin[0] + begin[2], begin[1] + begin[3]] : [px, py, px, py];
                if (!grip || grip.includes("w")) l = grip ? Math.min(x, r) : Math.min(x, px);
                if (!grip || grip.includes("e")) r = grip ? Math.max(x, l) : Math.max(x, px);
                if (!grip || grip.includes("n")) u = grip ? Math.min(y, d) : Math.min(y, py);
                if (!grip || grip.includes("s")) d = grip ? Math.max(y, u) : Math.max(y, py);
                const stays = grip ? [grip.includes("w") ? 1 : grip.includes("e") ? 0 : 0.5, grip.includes("n") ? 1 : grip.includes("s") ? 0 : 0.5] : [x < px ? 1 : 0, y < py ? 1 : 0];
                put([l, u, Math.max(1, r - l), Math.max(1, d - u)], stays);
            };
            const end = () => {
                canvas.removeEventListener("pointermove", move);
                canvas.removeEventListener("pointerup", end);
                canvas.removeEventListener("pointercancel", end);
            };
            canvas.addEventListener("pointermove", move);
            canvas.addEventListener("pointerup", end);
            canvas.addEventListener("pointercancel", end);
        });
        frame.addEventListener("keydown", (event) => {
            const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
            if (!step) return;
            event.preventDefault();
            const by = Math.max(1, Math.round(Math.max(wide, high) / 100));
            const [x, y, w, h] = crop;
            if (event.shiftKey) put([x, y, w + step[0] * by, h + step[1] * by], [0, 0]);
            else put([x + step[0] * by, y + step[1] * by, w, h]);
        });
        fields.forEach((input, i) => input.addEventListener("change", () => {
            const value = Number(input.value);
            if (Number.isFinite(value)) put(crop.map((old, k) => (k === i ? value : old)), [0, 0]);
        }));
        shape.addEventListener("change", () => put(crop));
        put(crop);
        frame.focus();
        return box;
    };

    // ── paint ──
    /** words: {title, about, go}. done(png): a data address of a picture, white where it is painted, black elsewhere. before: address of one to go on with, if it is there. */
    page.painter = (row, words, done, before) => {
        const scale = Math.min(1, LONGEST / Math.max(...row.size));
        const [wide, high] = row.size.map((n) => Math.max(1, Math.round(n * scale)));
        const canvas = el("canvas", { width: wide, height: high, tabindex: "0", "aria-label": t("Paint here. Arrow keys move the brush, Space paints.") });
        const pen = canvas.getContext("2d", { willReadFrequently: true });
        const ring = el("div.ring", { hidden: true });
        const size = el("input", { type: "range", min: 1, max: 60, value: 12, "aria-label": t("Size of the brush") });
        const rub = el("input", { type: "checkbox" });
        const { box, stage, side, image } = opened(row, words.title);
        const shown = el("div.shown.painting", {}, image, canvas, ring);
        stage.append(shown);
        const strokes = []; // what was there before each
        let at = [wide / 2, high / 2];
        const radius = () => Math.max(1, ((size.value / 100) * Math.min(wide, high)) / 2);
        const keep = () => {
            strokes.push(pen.getImageData(0, 0, wide, high));
            if (strokes.length > 12) strokes.shift();
        };
        const back = page.button(t("Undo stroke"), () => strokes.length && pen.putImageData(strokes.pop(), 0, 0), { title: "Ctrl+Z" });
        const whole = (act) => () => {
            keep();
            act();
        };
        const fill = page.button(t("All of it"), whole(() => paint(() => pen.fillRect(0, 0, wide, high))));
        const clear = page.button(t("Nothing"), whole(() => pen.clearRect(0, 0, wide, high)));
        const go = page.button(words.go, async () => {
            await done(png());
            box.close();
        }, { kind: "main" });
        side.append(el("p.hint", {}, words.about), el("div.line", {}, el("label.named", {}, t("Brush"), size), el("label.goal", {}, rub, t("rub out")), back, fill, clear, el("span.grow"), go));

        function paint(act) {
            pen.globalCompositeOperation = rub.checked ? "destination-out" : "source-over";
            pen.fillStyle = pen.strokeStyle = "#f03";
            pen.lineCap = pen.lineJoin = "round";
            pen.lineWidth = 2 * radius();
            act();
            pen.globalCompositeOperation = "source-over";
        }
        const dot = ([x, y]) => paint(() => {
            pen.beginPath();
            pen.arc(x, y, radius(), 0, 2 * Math.PI);
            pen.fill();
        });
        const line = (from, to) => paint(() => {
            pen.beginPath();
            pen.moveTo(...from);
            pen.lineTo(...to);
            pen.stroke();
        });
        const point = (event) => {
            const area = canvas.getBoundingClientRect();
            return [((event.clientX - area.left) / area.width) * wide, ((event.clientY - area.top) / area.height) * high];
        };
        const ringed = () => {
            const zoom = canvas.clientWidth / wide;
            const r = radius() * zoom;
            ring.style.cssText = `left:${at[0] * zoom - r}px;top:${at[1] * zoom - r}px;width:${2 * r}px;height:${2 * r}px`;
            page.show(ring, true);
        };
        canvas.addEventListener("pointerdown", (event) => {
            if (event.button) return;
            event.preventDefault();
            canvas.focus();
            canvas.setPointerCapture(event.pointerId);
            keep();
            dot((at = point(event)));
            ringed();
        });
        canvas.addEventListener("pointermove", (event) => {
            const now = point(event);
            if (canvas.hasPointerCapture(event.pointerId)) line(at, now);
            at = now;
            ringed();
        });
        canvas.addEventListener("pointerleave", () => page.show(ring, false));
        size.addEventListener("input", ringed);
        box.addEventListener("keydown", (event) => {
            const held = event.ctrlKey || event.metaKey;
            const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
            if (held && event.key.toLowerCase() === "z") back.click();
            else if (event.target !== canvas) return;
            else if (step) {
                at = [Math.max(0, Math.min(wide, at[0] + step[0] * radius())), Math.max(0, Math.min(high, at[1] + step[1] * radius()))];
                ringed();
            } else if (event.key === " ") {
                keep();
                dot(at);
            } else return;
            event.preventDefault();
        });
        function png() {
            const data = pen.getImageData(0, 0, wide, high);
            let any = false;
            for (let i = 0; i < data.data.length; i += 4) {
                const value = data.data[i + 3];
                any = any || value > 0;
                data.data[i] = data.data[i + 1] = data.data[i + 2] = value;
                data.data[i + 3] = 255;
            }
            if (!any) throw new Error(t("Nothing is painted yet."));
            const made = el("canvas", { width: wide, height: high });
            made.getContext("2d").putImageData(data, 0, 0);
            return made.toDataURL("image/png");
        }
        if (before) {
            const there = el("img", { src: before, onload: () => {
                pen.drawImage(there, 0, 0, wide, high);
                const data = pen.getImageData(0, 0, wide, high);
                for (let i = 0; i < data.data.length; i += 4) [data.data[i], data.data[i + 1], data.data[i + 2], data.data[i + 3]] = [255, 0, 51, data.data[i]];
                pen.putImageData(data, 0, 0);
            } });
        }
        canvas.focus();
        return box;
    };

    /** A control for page.rows: of what is painted, a file's path or a brush. current(): the picture that it is painted on. */
    page.paintControl = (current) => (row, given, changed) => {
        if (row.path !== "painted") return null;
        let drawn = null; // as data
        const input = el("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder: t("path of a PNG, or paint it"), ...given, oninput: () => (drawn = null) });
        const brush = page.button(t("Paint …"), () => {
            if (!current() || !current().size) throw new Error(t("Choose a picture to paint on."));
            page.painter(current(), { title: t("Paint"), go: t("Take it"), about: t("The same place counts in each of the pictures that are meant.") }, (png) => {
                drawn = png;
                input.value = t("painted by hand");
                changed();
            });
        });
        return { input, box: el("div.line", { "data-says": "" }, input, brush), wide: true, read: () => drawn || input.value.trim(), put: (value) => {
            drawn = value && value.startsWith("data:") ? value : null;
            input.value = drawn ? t("painted by hand") : value || "";
        } };
    };

    /** Buttons for one picture. given.values(): the folder's; given.has(work); given.done(): files are others now. */
    page.pictureTools = (row, given) => {
        if (!row.size) return [];
        const work = async (name, values) => {
            const { only, ...place } = given.values();
            await page.work(name, { ...place, names: [row.name], ...values });
            await given.done();
        };
        return [
            given.has("crop") && page.button(t("Crop …"), () => page.cropper(row, (box, copy) => work("crop", { by: "box", box, copy }))),
            given.has("mask") && page.button(t("Mask …"), () => page.painter(row, { title: t("Mask"), go: t("Save the mask"),
                about: t("Paint what is to be learned; the rest counts nothing in masked loss.") }, (png) => work("mask", { by: "painted", painted: png }), page.pictureOf({ ...row, path: row.path.replace(/\.[^.\\/]*$/, "-masklabel.png") }))),
            given.has("erase") && page.button(t("Erase …"), () => page.painter(row, { title: t("Erase"), go: t("Erase it"),
                about: t("Paint over what is to go, such as a watermark; what is around it grows over it.") }, (png) => work("erase", { painted: png }))),
        ].filter(Boolean);
    };
})();
