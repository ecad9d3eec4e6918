/* One pool's part of the page: writes each document into it, cell by cell, so that focus and selection stay. */

window.redispool = window.redispool || {};

(function (redispool) {
    "use strict";

    const OF_ONE_WORKER = ["pool", "worker", "health_history", "slow_commands"];
    const FAITHFUL = 5000; // milliseconds to keep to one worker while others answer
    const FORGOTTEN = 600; // seconds after which a worker that nobody sees any more leaves the table

    redispool.Pool = class {
        constructor(section, format, announce) {
            this.section = section;
            this.format = format;
            this.announce = announce;
            this.answer = {}; // the document of whichever worker answered last
            this.document = {};
            this.known = new Map(); // workers as they were last seen, by id
            this.series = new redispool.Series();
            this.select = section.querySelector("[data-worker]");
            this.charts = [];
            this.state = null;
            if (!this.select) {
                return; // misconfigured: there is nothing to show
            }
            this.own = this.select.dataset.worker;
            this.ownSeen = Date.now();
            for (const selector of ["[data-switch]", "[data-charts]", "[data-strip]"]) {
                section.querySelector(selector).hidden = false;
            }
            for (const figure of section.querySelectorAll("[data-chart]")) {
                this.charts.push(new redispool.Chart(figure, format));
            }
            this.select.addEventListener("change", () => this.draw());
        }

        history(series) {
            this.series.fill(series);
        }

        /** Take over the parts of a document that are new, and show them. */
        update(parts) {
            Object.assign(this.answer, parts);
            const doc = (this.document = this.chosen());
            this.showState(doc.pool);
            if (!this.select) {
                return;
            }
            this.workers = this.remembered(doc);
            this.series.add(doc);
            this.showFields(doc);
            this.showServer(doc);
            this.showWorkers(doc);
            this.showList("differences", doc.differences);
            this.rows("timeline", doc.health_history.slice().reverse());
            this.strip(doc);
            this.rows("slow-ours", doc.slow_commands);
            if (parts.slowlog) {
                this.rows("slow-server", doc.slowlog.rows, { isUnknown: Boolean(doc.slowlog.problem) });
                this.notice("slowlog-problem", doc.slowlog.problem, doc);
            }
            if (parts.clients) {
                this.rows("clients", doc.clients.rows, {
                    total: doc.clients.total, isUnknown: Boolean(doc.clients.problem),
                });
                this.notice("clients-problem", doc.clients.problem, doc);
            }
            if (parts.info) {
                this.showInfo(doc.info);
            }
            this.draw();
        }

        /** Where polls reach one process and then another, what is of one alone stays that of one while it answers. */
        chosen() {
            const id = this.answer.worker.id;
            if (id === this.own || !this.mine || Date.now() - this.ownSeen > FAITHFUL) {
                this.own = id;
                this.ownSeen = Date.now();
                this.mine = Object.fromEntries(OF_ONE_WORKER.map((key) => [key, this.answer[key]]));
            }
            return Object.assign({}, this.answer, this.mine);
        }

        // Health.

        showState(info) {
            const name = info.paused ? "paused" : info.state;
            const [sign, label] = this.format.states[name] || ["", name];
            if (this.state !== null && this.state !== name) {
                this.announce(this.format.say("now", { pool: info.alias, state: label }));
            }
            this.state = name;
            this.sign = sign;
            for (const each of Object.keys(this.format.states)) {
                this.section.classList.toggle("redispool-" + each, each === name);
            }
            this.text("[data-state-sign]", sign);
            this.text("[data-state-label]", label);
            this.notice("fault", info.fault);
            this.notice("warning", info.warning);
            this.notice("paused", info.paused
                ? this.format.say("paused_for", { n: Math.ceil(info.paused_for || 0) })
                : null);
            const closed = this.section.querySelector("[data-closed]");
            closed.hidden = info.state !== "closed";
            const { say } = this.format;
            this.text("[data-last-error]", !info.last_error
                ? say("none")
                : info.last_error === info.fault ? say("the_above") : info.last_error);
        }

        // Figures.

        showFields(doc) {
            for (const cell of this.section.querySelectorAll("[data-field]")) {
                const value = cell.dataset.field.split(".").reduce((found, key) => (found ? found[key] : null), doc);
                const shown = (value === null || value === undefined) && cell.dataset.kind === "moment" ? this.format.say("never") : null;
                const passed = cell.dataset.kind === "moment" && !shown ? " (" + this.format.show(doc.at - value, "age").replace(" ", "\u00a0") + ")" : "";
                write(cell, (shown || this.format.show(value, cell.dataset.kind)) + passed);
            }
        }

        showServer(doc) {
            const server = doc.server;
            this.section.querySelector("[data-server]").hidden = !server;
            this.section.querySelector("[data-no-server]").hidden = Boolean(server);
            if (!server) {
                const { fault } = doc.pool;
                this.text("[data-server-problem]", doc.server_problem === fault && fault
                    ? this.format.say("not_asked") : doc.server_problem || "");
                return;
            }
            const { show, say } = this.format;
            const limited = (value, limit, kind) => show(value, kind) + (limit
                ? " " + say("of", { max: show(limit, kind) })
                : limit === 0 && value !== null ? " " + say("no_limit") : "");
            const texts = {
                version: [server.product, server.version].filter(Boolean).join(" "),
                role: [server.role, server.mode].filter(Boolean).join(", "),
                uptime: show(server.uptime, "age"),
                clients: limited(server.clients, server.clients_max, "number"),
                memory: limited(server.memory_used, server.memory_max, "bytes"),
                ops_per_second: show(server.ops_per_second, "number"),
                hit_rate: server.hit_rate === null ? "–" : this.format.tenths.format(server.hit_rate * 100) + " %",
                keys: show(server.keys, "number"),
                process_id: show(server.process_id),
            };
            for (const cell of this.section.querySelectorAll("[data-server-field]")) {
                write(cell, texts[cell.dataset.serverField]);
            }
        }

        showWorkers(doc) {
            this.notice("workers-problem", doc.workers_problem && doc.workers_problem === doc.pool.fault
                ? this.format.say("only_own") : doc.workers_problem);
            const dress = (row, worker) => {
                row.classList.toggle("redispool-stale", worker.stale === true);
                row.classList.toggle("redispool-own", worker.id === this.own);
            };
            this.rows("workers", this.workers, { dress });
            const wanted = ["", ...this.workers.map((worker) => worker.id)];
            const options = Array.from(this.select.options, (option) => option.value);
            if (wanted.join("\n") !== options.join("\n") || this.labelled !== this.own) {
                this.labelled = this.own;
                const chosen = this.select.value;
                this.select.replaceChildren(...wanted.map((id) => {
                    const own = id === this.own ? " (" + this.format.say("this_worker") + ")" : "";
                    return new Option(id ? id + own : this.format.say("all_workers"), id);
                }));
                this.select.value = wanted.includes(chosen) ? chosen : "";
            }
        }

        /** While only one process can be asked, the others stay in the table as they were last seen. */
        remembered(doc) {
            const seen = new Set(doc.workers.map((worker) => worker.id));
            for (const worker of doc.workers) {
                this.known.set(worker.id, { worker: worker, at: doc.at - (worker.seen_seconds || 0) });
            }
            const workers = doc.workers.slice();
            for (const [id, { worker, at }] of this.known) {
                if (seen.has(id)) {
                    continue;
                }
                if (doc.workers_problem === null || doc.at - at > FORGOTTEN) {
                    this.known.delete(id);
                } else {
                    workers.push(Object.assign({}, worker, { seen_seconds: doc.at - at, stale: true }));
                }
            }
            return workers.sort((one, other) => (one.id < other.id ? -1 : 1));
        }

        draw() {
            const chosen = this.select.value;
            const workers = (this.workers || []).filter((worker) => !worker.stale && (!chosen || worker.id === chosen));
            const { sum, most, mean } = redispool.figures;
            for (const tile of this.section.querySelectorAll("[data-figure]")) {
                const found = workers.map((worker) => [worker[tile.dataset.figure], worker.ops_per_second]);
                const rules = {
                    sum: () => sum(found, 0),
                    max: () => most(found, 0),
                    mean: () => mean(found, 0, 1),
                };
                write(tile.querySelector("dd"), this.format.show(rules[tile.dataset.rule](), tile.dataset.kind));
            }
            const [times, lines] = this.series.of(chosen);
            for (const chart of this.charts) {
                chart.show(times, lines);
            }
        }

        redraw() {
            for (const chart of this.charts) {
                chart.redraw();
            }
        }

        // Lists.

        rows(name, entries, { total, dress, isUnknown } = {}) {
            const table = this.section.querySelector('[data-table="' + name + '"]');
            const columns = Array.from(table.tHead.rows[0].cells, (cell) => cell.dataset);
            const body = table.tBodies[0];
            entries.forEach((entry, index) => {
                const row = body.rows[index] || body.insertRow();
                columns.forEach((column, position) => {
                    let cell = row.cells[position];
                    if (!cell) {
                        cell = document.createElement(position ? "td" : "th");
                        if (!position) {
                            cell.scope = "row";
                        }
                        cell.className = "redispool-" + column.kind;
                        cell.append(document.createElement("span"));
                        if (column.detail) {
                            cell.append(" ", document.createElement("small"));
                        }
                        row.append(cell);
                    }
                    const value = column.kind === "state" && entry.paused ? "paused" : entry[column.key];
                    write(cell.firstElementChild, this.format.show(value, column.kind));
                    if (column.detail) {
                        write(cell.lastElementChild, entry[column.detail] || "");
                    }
                    if (column.kind === "state" && cell.dataset.state !== value) {
                        cell.dataset.state = value;
                    }
                });
                if (dress) {
                    dress(row, entry);
                }
            });
            while (body.rows.length > entries.length) {
                body.deleteRow(-1);
            }
            table.parentNode.querySelector("[data-empty]").hidden = entries.length > 0 || isUnknown === true;
            table.tHead.hidden = entries.length === 0;
            const count = total !== undefined && total > entries.length
                ? this.format.say("shown_of", { shown: entries.length, total: this.format.whole.format(total) })
                : String(entries.length || "");
            write(table.querySelector("[data-count]"), count);
        }

        /** Health over time as a band of colour; the table beside it says the same in words. */
        strip(doc) {
            const strip = this.section.querySelector("[data-strip]");
            const changes = doc.health_history;
            const from = Math.max(doc.at - 3600, changes.length ? changes[0].at : doc.at);
            const spans = [];
            changes.forEach((change, index) => {
                const until = index + 1 < changes.length ? changes[index + 1].at : doc.at;
                if (until > from) {
                    spans.push([change.state, until - Math.max(from, change.at)]);
                }
            });
            while (strip.children.length > spans.length) {
                strip.lastChild.remove();
            }
            spans.forEach(([state, seconds], index) => {
                const span = strip.children[index] || strip.appendChild(document.createElement("span"));
                span.dataset.state = state;
                span.style.flexGrow = String(Math.max(1, seconds));
            });
            strip.hidden = spans.length === 0;
        }

        showList(name, texts) {
            const place = this.section.querySelector("[data-" + name + "]");
            const list = place.querySelector("ul");
            const wanted = texts.join("\n");
            if (list.dataset.shown !== wanted) {
                list.dataset.shown = wanted;
                list.replaceChildren(...texts.map((text) => {
                    const item = document.createElement("li");
                    item.textContent = text;
                    return item;
                }));
            }
            place.hidden = texts.length === 0;
        }

        showInfo(sections) {
            const place = this.section.querySelector("[data-info]");
            if (!place.closest("details").open && place.children.length) {
                return;
            }
            for (const [name, fields] of Object.entries(sections)) {
                let table = Array.from(place.children).find((each) => each.dataset.section === name);
                if (!table) {
                    table = place.appendChild(document.createElement("table"));
                    table.dataset.section = name;
                    table.createCaption().textContent = name;
                    table.createTBody();
                }
                const body = table.tBodies[0];
                Object.entries(fields).forEach(([key, value], index) => {
                    let row = body.rows[index];
                    if (!row) {
                        row = body.insertRow();
                        const heading = row.appendChild(document.createElement("th"));
                        heading.scope = "row";
                        row.insertCell();
                    }
                    write(row.cells[0], key);
                    write(row.cells[1], value);
                });
                while (body.rows.length > Object.keys(fields).length) {
                    body.deleteRow(-1);
                }
            }
        }

        notice(name, text, doc) {
            const place = this.section.querySelector("[data-" + name + "]");
            place.hidden = !text;
            // What the head of the card says already needs no second telling.
            write(place, (doc && text && text === doc.pool.fault ? this.format.say("not_asked") : text) || "");
        }

        text(selector, text) {
            const place = this.section.querySelector(selector);
            if (place) {
                write(place, text);
            }
        }
    };

    function write(place, text) {
        if (place.textContent !== text) {
            place.textContent = text;
        }
    }
})(window.redispool);
