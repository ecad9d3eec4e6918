/* The charts of the last minutes: series per worker, gathered from the documents and drawn by uPlot.
   Colours are the page's own custom properties, so themes and dark mode apply. */

window.redispool = window.redispool || {};

(function (redispool) {
    "use strict";

    const KEPT = 600; // seconds
    const MOST = 900; // moments
    const HEIGHT = 130;
    const NUMBERS = [
        "ops_per_second", "latency_p50_ms", "latency_p99_ms", "commands_in_flight", "waiting",
        "timeouts_total", "errors_total", "reconnects_total",
    ];
    const BINARY = Array.from({ length: 44 }, (each, power) => 2 ** power);
    const COLOURS = ["--redispool-line-1", "--redispool-line-2", "--redispool-line-3"];

    /** What the documents said, moment by moment. */
    redispool.Series = class {
        constructor() {
            this.moments = [];
        }

        /** Fill in what another visitor's page, or this one before it rested, would have seen. */
        fill(history) {
            const first = this.moments.length ? this.moments[0].at : Infinity;
            const last = this.moments.length ? this.moments[this.moments.length - 1].at : -Infinity;
            const older = history.filter((each) => each.at < first);
            const newer = history.filter((each) => each.at > last && each.at > first);
            this.moments = older.concat(this.moments, newer);
        }

        add(document) {
            const last = this.moments[this.moments.length - 1];
            if (last && document.at <= last.at) {
                return;
            }
            const workers = {};
            for (const worker of document.workers) {
                workers[worker.id] = NUMBERS.map((key) => (key in worker ? worker[key] : null));
            }
            const server = document.server;
            this.moments.push({
                at: document.at,
                workers: workers,
                server: server ? [server.memory_used, server.clients] : null,
                own: document.workers_problem !== null,
            });
            while (this.moments.length > MOST || this.moments[0].at < document.at - KEPT) {
                this.moments.shift();
            }
        }

        /** Return [times, {line: values}] of one worker, or of all when `worker` is "". */
        of(worker) {
            const times = [];
            const lines = {
                ops: [], p50: [], p99: [], in_flight: [], waiting: [],
                errors: [], timeouts: [], reconnects: [], memory: [], clients: [],
            };
            const isShared = this.moments.some((each) => !each.own);
            let before = null;
            for (const moment of this.moments) {
                // What only one process knows is no number of all: a gap.
                const partial = !worker && moment.own && isShared;
                const found = partial ? [] : worker
                    ? [moment.workers[worker]].filter(Boolean)
                    : Object.values(moment.workers);
                times.push(moment.at);
                lines.ops.push(sum(found, 0));
                lines.p50.push(mean(found, 1, 0));
                lines.p99.push(most(found, 2));
                lines.in_flight.push(sum(found, 3));
                lines.waiting.push(sum(found, 4));
                lines.timeouts.push(growth(before, partial ? null : moment, worker, 5));
                lines.errors.push(growth(before, partial ? null : moment, worker, 6));
                lines.reconnects.push(growth(before, partial ? null : moment, worker, 7));
                lines.memory.push(moment.server ? moment.server[0] : null);
                lines.clients.push(moment.server ? moment.server[1] : null);
                before = moment;
            }
            return [times, lines];
        }
    };

    function known(found, index) {
        return found.map((each) => each[index]).filter((value) => value !== null && value !== undefined);
    }

    function sum(found, index) {
        const values = known(found, index);
        return values.length ? values.reduce((total, value) => total + value, 0) : null;
    }

    function most(found, index) {
        const values = known(found, index);
        return values.length ? Math.max(...values) : null;
    }

    function mean(found, index, weight) {
        const weighed = found.filter((each) => each[index] !== null && each[index] !== undefined);
        const total = weighed.reduce((all, each) => all + (each[weight] || 0), 0);
        if (!weighed.length) {
            return null;
        }
        return total
            ? weighed.reduce((all, each) => all + each[index] * (each[weight] || 0), 0) / total
            : sum(weighed, index) / weighed.length;
    }

    /** Return by how much a total grew since the moment before, per minute; a worker that started anew counts from 0. */
    function growth(before, moment, worker, index) {
        if (!before || !moment) {
            return null;
        }
        const seconds = Math.max(1, moment.at - before.at);
        let grown = 0;
        let compared = false;
        for (const [id, numbers] of Object.entries(moment.workers)) {
            const earlier = before.workers[id];
            if ((!worker || worker === id) && earlier && numbers[index] !== null && earlier[index] !== null) {
                grown += Math.max(0, numbers[index] - earlier[index]);
                compared = true;
            }
        }
        return compared ? (grown * 60) / seconds : null;
    }
    redispool.figures = { sum: sum, most: most, mean: mean };

    /** One chart: `show(times, lines)` draws it anew. */
    redispool.Chart = class {
        constructor(figure, format) {
            this.format = format;
            this.kind = figure.dataset.kind;
            this.plotted = figure.querySelector("[data-plot]");
            this.items = Array.from(figure.querySelectorAll("[data-line]"));
            this.data = null;
            this.items.forEach((item, index) => item.classList.add("redispool-line-" + (index + 1)));
            new ResizeObserver(() => this.resize()).observe(this.plotted);
        }

        show(times, lines) {
            this.data = [times].concat(this.items.map((item) => lines[item.dataset.line]));
            this.items.forEach((item, index) => {
                const values = this.data[index + 1];
                item.querySelector("[data-latest]").textContent =
                    this.format.show(values[values.length - 1], this.kind);
            });
            if (this.plot) {
                this.plot.setData(this.data);
            } else if (this.plotted.clientWidth) {
                this.draw();
            }
        }

        resize() {
            if (this.plot) {
                this.plot.setSize({ width: this.plotted.clientWidth, height: HEIGHT });
            } else if (this.data) {
                this.draw();
            }
        }

        /** The theme has changed. */
        redraw() {
            if (this.plot) {
                this.plot.destroy();
                this.plot = null;
            }
            if (this.data && this.plotted.clientWidth) {
                this.draw();
            }
        }

        draw() {
            const style = getComputedStyle(this.plotted);
            const colour = (name) => style.getPropertyValue(name).trim();
            const axis = {
                stroke: colour("--body-quiet-color"),
                font: "11px " + style.fontFamily,
                ticks: { show: false },
                grid: { stroke: colour("--redispool-grid"), width: 1 },
            };
            this.plot = new window.uPlot({
                width: this.plotted.clientWidth,
                height: HEIGHT,
                legend: { show: false },
                cursor: { y: false, points: { size: 7 }, sync: { key: "redispool" }, drag: { x: false, y: false } },
                padding: [8, 4, 0, 0],
                scales: {
                    x: { time: true, range: (plot, low, high) => [Math.max(low, high - KEPT), Math.max(high, low + 60)] },
                    y: { range: (plot, low, high) => [0, Math.max(high * 1.1, this.kind === "ms" ? 0.1 : 1)] },
                },
                axes: [
                    Object.assign({}, axis, {
                        size: 24,
                        space: 70,
                        values: (plot, ticks) => {
                            const length = plot.scales.x.max - plot.scales.x.min > 300 ? 5 : 8; // with seconds while they count
                            return ticks.map((tick) => this.format.clock.format(tick * 1000).slice(0, length));
                        },
                    }),
                    Object.assign({}, axis, this.kind === "bytes" ? { incrs: BINARY } : {}, {
                        size: 54,
                        space: 28,
                        values: (plot, ticks) => ticks.map((tick) => this.format.short(tick, this.kind)),
                    }),
                ],
                series: [{}].concat(this.items.map((item, index) => ({
                    label: item.textContent.trim(),
                    stroke: colour(COLOURS[index]),
                    width: 1.75,
                    fill: index === 0 ? colour("--redispool-fill") : undefined,
                    points: { show: false },
                    spanGaps: false,
                }))),
                hooks: { setCursor: [(plot) => this.point(plot)] },
            }, this.data, this.plotted);
        }

        /** Say in the legend what is under the cursor. */
        point(plot) {
            this.items.forEach((item, index) => {
                const values = this.data[index + 1];
                const at = plot.cursor.idx === null || plot.cursor.idx === undefined ? values.length - 1 : plot.cursor.idx;
                item.querySelector("[data-latest]").textContent = this.format.show(values[at], this.kind);
            });
        }
    };
})(window.redispool);
