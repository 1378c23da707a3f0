// The page's ground: one namespace, elements, words, numbers, and how the server is asked.
(function () {
    "use strict";

    const PREFIX = "/lora_train/v1";
    const page = (window.loraTrain = window.loraTrain || {});

    page.words = page.words || {};
    page.root = null; // the element that the server put into gradio's page
    page.language = "en";

    // ── news: views listen, whoever changes something tells ──
    const listeners = {};
    page.on = (what, act) => (listeners[what] = listeners[what] || []).push(act);
    page.tell = (what, news) => (listeners[what] || []).forEach((act) => act(news));
    page.deaf = () => Object.keys(listeners).forEach((what) => delete listeners[what]);

    // ── words ──
    page.t = (text, values) => {
        const found = (page.words[page.language] || {})[text] || text;
        return values ? found.replace(/\{(\w+)\}/g, (all, name) => (name in values ? values[name] : all)) : found;
    };

    // ── the server's sentences ──
    const TYPES = { low: "([\\d.e+-]+)", high: "([\\d.e+-]+)", word: "([\\w.-]+)", words: "([\\w.-]+(?:, [\\w.-]+)*)" };
    let known = null; // [pattern, words in it, translation], of one language
    const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    function patterns() {
        const own = page.words[page.language];
        if (known && known.of === own) return known;
        known = ((own && own.said) || []).map(([from, to]) => {
            const names = [];
            const parts = from.split(/\{(\w+)\}/).map((part, i) => (i % 2 ? (names.push(part), TYPES[part] || "(.+?)") : escaped(part)));
            return [new RegExp(`^${parts.join("")}$`), names, to];
        });
        known.of = own;
        return known;
    }

    function whole(text) {
        const found = (page.words[page.language] || {})[text];
        if (typeof found === "string") return found;
        for (const [pattern, names, to] of patterns()) {
            const match = pattern.exec(text);
            if (match) return to.replace(/\{(\w+)\}/g, (all, name) => (names.includes(name) ? match[names.indexOf(name) + 1] : all));
        }
        return null;
    }

    /** `path = value: expected …` is known by what stands behind the path. */
    function sentence(line) {
        const found = whole(line);
        if (found !== null) return found;
        for (let at = line.indexOf(": "); at > 0; at = line.indexOf(": ", at + 1)) {
            const rest = whole(line.slice(at + 2));
            if (rest !== null) return `${line.slice(0, at)}: ${rest}`;
        }
        const [first, then] = [line.split("; ", 1)[0], line.slice(line.indexOf("; ") + 2)];
        if (first === line) return line;
        const [a, b] = [sentence(first), sentence(then)];
        return a !== first && b !== then ? `${a}。${b}` : line;
    }

    /** What the server says, in the page's language; a sentence that has none there stays as it is. */
    page.said = (text) => {
        const words = page.words[page.language];
        return text && words && words.said ? String(text).split("\n").map(remembered).join("\n") : text;
    };
    let before = new Map(); // a log's lines are asked for again and again
    function remembered(line) {
        if (before.of !== page.language || before.size > 2000) before = Object.assign(new Map(), { of: page.language });
        if (!before.has(line)) before.set(line, sentence(line));
        return before.get(line);
    }

    /** The WebUI's language where we are in it, else the browser's. */
    page.chosenLanguage = () => {
        const said = window.localization && window.localization["lora-train: language"];
        if (said) return said;
        const chosen = page.webui() ? (window.opts && window.opts.localization) || "en" : navigator.language || "en";
        const short = chosen.slice(0, 2).toLowerCase();
        return page.words[short] ? short : "en";
    };

    page.webui = () => Boolean(page.root) && page.root.dataset.host === "webui";

    // ── elements ──
    /** el("button.small", {onclick: …, title: …}, "text" or elements …). Text is text: nothing is read as HTML. */
    page.el = (what, given, ...inside) => {
        const [tag, ...classes] = what.split(".");
        const made = document.createElement(tag || "div");
        if (classes.length) made.className = classes.map((name) => `lt-${name}`).join(" ");
        for (const [name, value] of Object.entries(given || {})) {
            if (value === null || value === undefined || value === false) continue;
            if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
            else if (name === "value" || name === "checked") made[name] = value;
            else made.setAttribute(name, value === true ? "" : value);
        }
        made.append(...inside.flat().filter((part) => part !== null && part !== undefined && part !== false));
        return made;
    };

    page.fill = (element, ...inside) => {
        element.replaceChildren(...inside.flat().filter((part) => part !== null && part !== undefined && part !== false));
        return element;
    };

    /** Only what differs is written: the WebUI looks at its whole page after each change. */
    page.write = (element, text) => {
        if (element.textContent !== text) element.textContent = text;
    };
    page.show = (element, whether) => {
        if (element.hidden === Boolean(whether)) element.hidden = !whether;
    };

    page.button = (text, act, more) => {
        const { kind = "", ...given } = more || {};
        const made = page.el(kind ? `button.button.${kind}` : "button.button", { type: "button", ...given }, text);
        made.addEventListener("click", () => page.busy(made, act));
        return made;
    };

    /** While an answer is awaited the button is off; a refusal is said beside it. */
    page.busy = async (button, act) => {
        if (button.getAttribute("aria-busy") === "true") return;
        button.setAttribute("aria-busy", "true");
        try {
            await act();
            page.say(button, "");
        } catch (error) {
            page.say(button, error.message);
        } finally {
            button.removeAttribute("aria-busy");
        }
    };

    page.say = (near, text) => {
        const home = near.closest("[data-says]") || page.root;
        let place = home && home.querySelector(":scope > .lt-refused");
        if (!place && text && home) {
            place = page.el("div.refused", { role: "alert" });
            home.append(place);
        }
        if (place) page.write(place, page.said(text));
        if (place) page.show(place, text);
    };

    /** Asks in place of the button: `Stop` -> "… are lost. [Yes, stop] [No]". */
    page.sure = (text, question, yes, act, more) => {
        const made = page.button(text, () => {
            const words = typeof question === "function" ? question() : question;
            const back = () => {
                asked.replaceWith(made);
                made.focus();
            };
            const agree = page.button(yes, async () => {
                await act();
                if (asked.isConnected) asked.replaceWith(made);
            }, { kind: "danger" });
            const asked = page.el("span.sure", { role: "group", "aria-label": words,
                onkeydown: (e) => e.key === "Escape" && back() }, page.el("span", {}, words), agree,
            page.button(page.t("No"), back));
            made.replaceWith(asked);
            agree.focus();
        }, more);
        return made;
    };

    // ── numbers ──
    page.time = (seconds) => {
        if (seconds === null || seconds === undefined) return "–";
        const s = Math.max(0, Math.round(seconds));
        const two = (n) => String(n).padStart(2, "0");
        const [h, m] = [Math.floor(s / 3600), Math.floor(s / 60) % 60];
        return h ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`;
    };
    page.number = (value, digits = 3) => {
        if (value === null || value === undefined || !isFinite(value)) return "–";
        if (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e6)) {
            return value.toExponential(2).replace(/\.?0+e/, "e");
        }
        return String(Number(value.toPrecision(Math.max(digits, String(Math.trunc(Math.abs(value))).length))));
    };
    page.megabytes = (mb) => {
        if (mb === null || mb === undefined) return "–";
        return mb >= 1000 ? `${(mb / 1024).toFixed(1)} GB` : `${page.number(mb)} MB`;
    };
    page.bytes = (n) => {
        if (n === null || n === undefined) return "–";
        return n >= 2 ** 20 ? page.megabytes(n / 2 ** 20) : `${Math.ceil(n / 1024)} kB`;
    };
    page.clock = (when) => new Date(when * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" });

    // ── the server ──
    page.url = (path) => ((page.root && page.root.dataset.base) || "") + PREFIX + path;

    /** A picture, by what the server calls it: an address, a path below our routes, or a file. */
    page.picture = (where) => {
        if (/^(https?:|data:|blob:)/.test(where)) return where;
        if (where.startsWith(PREFIX)) return page.url(where.slice(PREFIX.length));
        const text = where.replace(/[\ud800-\udfff]/gu, "\ufffd");  // half a letter, of a name that is no text
        return page.url(`/file?path=${encodeURIComponent(text)}`);
    };

    /** The answer as JSON; a refusal is an Error with the server's sentence. */
    page.ask = async (method, path, body) => {
        const given = { method, headers: {}, credentials: "same-origin" };
        if (body instanceof Blob) given.body = body;
        else if (body !== undefined) {
            given.body = JSON.stringify(body);
            given.headers["Content-Type"] = "application/json";
        }
        let reply;
        try {
            reply = await fetch(page.url(path), given);
        } catch {
            throw new Error(page.t("The server does not answer. Look at its window; this page goes on by itself when it is back."));
        }
        let answer = null;
        try {
            answer = await reply.json();
        } catch {
            // said below
        }
        if (!reply.ok) {
            const said = (answer && answer.error) || page.t("The server answered {status}.", { status: reply.status });
            throw Object.assign(new Error(said), { status: reply.status });
        }
        return answer;
    };

    page.kept = (name, value) => {
        const key = `lora_train.${name}`;
        try {
            if (value === undefined) return JSON.parse(localStorage.getItem(key));
            localStorage.setItem(key, JSON.stringify(value));
        } catch {
            // a browser without storage forgets; nothing else depends on it
        }
        return null;
    };
})();
