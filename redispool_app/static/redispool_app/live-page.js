/* The live status page: brings documents to the pools, and says how fresh they are. */

(function (redispool) {
    "use strict";

    const root = document.querySelector(".redispool");
    if (!root || !root.dataset.url || !root.querySelector("[data-connection]")) {
        return;
    }
    const format = redispool.formatter(root);
    const announcer = root.querySelector("[data-announce]");
    const connection = root.querySelector("[data-connection]");
    const pools = new Map();
    for (const section of root.querySelectorAll("[data-alias]")) {
        pools.set(section.dataset.alias, new redispool.Pool(section, format, (text) => {
            announcer.textContent = text;
        }));
    }
    root.querySelector("[data-noscript]").hidden = true;
    connection.hidden = false;

    // Worth interrupting somebody for when they begin; the countdown to the next try is not.
    const LOUD = ["reconnecting", "signed_out", "forbidden"];
    let shown = "";
    let isLost = false;
    function state(name, values) {
        const text = format.say(name, values);
        const isNew = connection.dataset.connection !== name;
        connection.dataset.connection = name;
        if (text !== shown) {
            shown = text;
            connection.querySelector("[data-connection-text]").textContent = text;
        }
        if (isNew && LOUD.includes(name)) {
            announcer.textContent = text;
            isLost = true;
        } else if (isLost && (name === "live" || name === "polling")) {
            announcer.textContent = format.say("back");
            isLost = false;
        }
    }

    function live(answer) {
        for (const [alias, parts] of Object.entries(answer.pools)) {
            const pool = pools.get(alias);
            if (!pool) {
                continue;
            }
            pool.update(parts);
            const link = root.querySelector('[data-nav="' + CSS.escape(alias) + '"]');
            if (link) {
                link.className = "redispool-" + pool.state;
                link.firstElementChild.textContent = pool.sign;
            }
        }
        connection.querySelector("[data-connection-time]").textContent = format.clock.format(new Date());
    }

    function history(series) {
        for (const [alias, moments] of Object.entries(series)) {
            if (pools.has(alias)) {
                pools.get(alias).history(moments);
            }
        }
    }

    const redraw = () => pools.forEach((pool) => pool.redraw());
    new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

    state("connecting");
    new redispool.Transport(root.dataset.url, root.dataset.stream, Number(root.dataset.interval), {
        live: live, history: history, state: state,
    }).start();
})(window.redispool);
