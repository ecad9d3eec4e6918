/* The live page's words and numbers: every kind of value of a document as text of the page's language. */

window.redispool = window.redispool || {};

(function (redispool) {
    "use strict";

    const NOTHING = "–";

    redispool.formatter = function (root) {
        const strings = JSON.parse(root.dataset.strings);
        const states = JSON.parse(root.dataset.states);
        const language = document.documentElement.lang || undefined;
        const zone = zoneOf(root.dataset.timeZone);
        const clock = new Intl.DateTimeFormat(language, {
            hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: zone,
        });
        const calendar = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeZone: zone });
        const whole = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
        const tenths = new Intl.NumberFormat(language, { maximumFractionDigits: 1, minimumFractionDigits: 1 });
        const hundredths = new Intl.NumberFormat(language, { maximumFractionDigits: 2, minimumFractionDigits: 2 });

        function say(name, values) {
            return (strings[name] || name).replace(/%\((\w+)\)s/g, (match, key) =>
                values && key in values ? String(values[key]) : match);
        }

        function age(seconds) {
            if (seconds < 120) {
                return say("seconds", { n: whole.format(seconds) });
            }
            if (seconds < 7200) {
                return say("minutes", { n: whole.format(seconds / 60) });
            }
            if (seconds < 172800) {
                return say("hours", { n: whole.format(seconds / 3600) });
            }
            return say("days", { n: whole.format(seconds / 86400) });
        }

        function bytes(value) {
            const units = ["B", "KB", "MB", "GB", "TB"];
            let unit = 0;
            while (value >= 1024 && unit < units.length - 1) {
                value /= 1024;
                unit += 1;
            }
            return (unit ? tenths : whole).format(value) + "\u00a0" + units[unit];
        }

        function state(name) {
            const known = states[name];
            return known ? known[0] + " " + known[1] : String(name);
        }

        const kinds = {
            text: String,
            code: String,
            state: state,
            number: (value) => whole.format(value),
            rate: (value) => (value >= 10 || value === 0 ? whole : tenths).format(value),
            ms: (value) => (value >= 100 ? whole : hundredths).format(value) + " ms",
            bytes: bytes,
            age: age,
            time: (value) => clock.format(new Date(value * 1000)),
            moment: (value) => {
                const date = new Date(value * 1000);
                return calendar.format(date) + ", " + clock.format(date);
            },
        };

        const compact = new Intl.NumberFormat(language, { notation: "compact", maximumFractionDigits: 1 });
        const plain = new Intl.NumberFormat(language, { maximumSignificantDigits: 3 });

        return {
            say: say,
            states: states,
            whole: whole,
            tenths: tenths,
            clock: clock,
            /** Return a number for an axis, where there is little room. */
            short: function (value, kind) {
                if (kind === "bytes") {
                    return bytes(value);
                }
                return kind === "ms" ? plain.format(value) + " ms" : compact.format(value);
            },
            /** Return a value of a document as text; a dash for what is not known. */
            show: function (value, kind) {
                return value === null || value === undefined || value === "" ? NOTHING : kinds[kind || "text"](value);
            },
        };
    };

    function zoneOf(name) {
        try {
            new Intl.DateTimeFormat(undefined, { timeZone: name });
            return name;
        } catch (error) {
            return undefined; // the browser's own
        }
    }
})(window.redispool);
