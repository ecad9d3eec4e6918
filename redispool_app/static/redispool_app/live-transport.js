/* How the documents come: server-sent events where the site offers them, polling where it does not or where something
   on the way holds them back. Backs off while the site does not answer, and rests while nobody looks. */

window.redispool = window.redispool || {};

(function (redispool) {
    "use strict";

    const FIRST_RETRY = 1000;
    const LAST_RETRY = 30000;
    const SILENCE = 10000; // without an event for so long, something on the way is holding them back
    const STREAM_FAILURES = 3; // so many streams that brought nothing, and the page polls from then on

    /** Call `on.live(document)`, `on.history(series)` and `on.state(name, values)` until the page is left. */
    redispool.Transport = class {
        constructor(url, streamUrl, interval, on) {
            this.url = url;
            this.streamUrl = window.EventSource ? streamUrl : "";
            this.interval = interval;
            this.on = on;
            this.failures = 0;
            this.streamFailures = 0;
            this.isSuspect = false;
            this.hasHistory = false;
            this.run = 0; // answers to a request of an earlier run are not wanted any more
            document.addEventListener("visibilitychange", () => (document.hidden ? this.rest() : this.start()));
            window.addEventListener("pagehide", () => this.stop());
        }

        start() {
            this.stop();
            if (document.hidden) {
                this.on.state("hidden");
                return;
            }
            this.hasHistory = false; // a page that rested has a gap to fill
            this.next();
        }

        rest() {
            this.stop();
            this.on.state("hidden");
        }

        stop() {
            this.run += 1;
            clearTimeout(this.timer);
            clearTimeout(this.watchdog);
            clearInterval(this.countdown);
            if (this.source) {
                this.source.close();
                this.source = null;
            }
        }

        next() {
            if (this.streamUrl && this.streamFailures < STREAM_FAILURES) {
                this.listen();
            } else {
                this.poll();
            }
        }

        listen() {
            const source = (this.source = new EventSource(this.streamUrl));
            const guard = () => {
                clearTimeout(this.watchdog);
                this.watchdog = setTimeout(() => this.streamFailed(), SILENCE);
            };
            guard();
            source.addEventListener("history", (event) => {
                this.on.history(JSON.parse(event.data));
                this.hasHistory = true;
            });
            source.addEventListener("live", (event) => {
                guard();
                this.succeeded("live");
                this.streamFailures = 0;
                this.on.live(JSON.parse(event.data));
            });
            source.addEventListener("bye", () => {
                this.stop();
                this.next();
            });
            source.addEventListener("error", () => this.streamFailed());
        }

        streamFailed() {
            this.stop();
            this.isSuspect = true;
            this.poll(); // tells a site that is gone from one whose streams do not arrive, or a session that ended
        }

        async poll() {
            const run = this.run;
            const controller = new AbortController();
            const deadline = setTimeout(() => controller.abort(), SILENCE);
            try {
                const response = await fetch(this.url + (this.hasHistory ? "" : "?history=1"), {
                    headers: { Accept: "application/json" },
                    credentials: "same-origin",
                    redirect: "manual",
                    signal: controller.signal,
                });
                if (run !== this.run) {
                    return;
                }
                if (response.type === "opaqueredirect" || response.status === 403) {
                    this.stop();
                    // The admin leads whoever is not logged in to its login, and refuses whoever is and may not look.
                    this.on.state(response.status === 403 ? "forbidden" : "signed_out");
                    return;
                }
                if (!response.ok) {
                    throw new Error(String(response.status));
                }
                const answer = await response.json();
                if (run !== this.run) {
                    return;
                }
                if (answer.history) {
                    this.on.history(answer.history);
                    this.hasHistory = true;
                }
                this.streamFailures += this.isSuspect ? 1 : 0;
                this.isSuspect = false;
                this.succeeded("polling");
                this.on.live(answer);
                this.timer = setTimeout(() => this.next(), this.interval);
            } catch (error) {
                if (run === this.run) {
                    this.isSuspect = false;
                    this.failed();
                }
            } finally {
                clearTimeout(deadline);
            }
        }

        succeeded(state) {
            this.failures = 0;
            this.on.state(state, { n: this.interval / 1000 });
        }

        failed() {
            const most = Math.min(LAST_RETRY, FIRST_RETRY * 2 ** this.failures);
            const delay = most / 2 + (Math.random() * most) / 2;
            this.failures += 1;
            let left = Math.ceil(delay / 1000);
            this.on.state("reconnecting", { n: left });
            this.countdown = setInterval(() => {
                left -= 1;
                this.on.state("reconnecting", { n: Math.max(0, left) });
            }, 1000);
            this.timer = setTimeout(() => {
                this.stop();
                this.next();
            }, delay);
        }
    };
})(window.redispool);
