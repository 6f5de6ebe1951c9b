// The page of the admin address. What it shows comes from /api/v1/events once per second and from
// /api/v1/clients. Texts of the server are set as text, never as markup.
(() => {
    "use strict";
    const find = (id) => document.getElementById(id);
    // Seconds that the charts show.
    const POINTS = 600;
    const CHART_HEIGHT = 180;
    // Many rows are refreshed less often, in milliseconds.
    const REFRESH = 1000;
    const REFRESH_MANY = 5000;
    const MANY = 1000;

    const scaled = (value, step, units, digits = 3) => {
        let unit = 0;
        while (Math.abs(value) >= step && unit < units.length - 1) {
            value /= step;
            unit += 1;
        }
        return (unit ? String(Number(value.toPrecision(digits))) : String(Math.round(value))) + units[unit];
    };
    // With spaces at which no line is broken.
    const count = (value) => scaled(value, 1000, ["", "\u00a0k", "\u00a0M", "\u00a0G"]);
    const BYTES = ["\u00a0B", "\u00a0KiB", "\u00a0MiB", "\u00a0GiB", "\u00a0TiB"];
    const bytes = (value) => scaled(value, 1024, BYTES);
    const nanos = (value) => scaled(value, 1000, ["\u00a0ns", "\u00a0µs", "\u00a0ms", "\u00a0s"]);
    const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
    const whole = (value) => value.toLocaleString("en");
    const span = (nanos) => {
        const seconds = Math.floor(nanos / 1e9);
        const [minutes, hours, days] = [seconds / 60, seconds / 3600, seconds / 86400].map(Math.floor);
        if (days) { return `${days} d ${hours % 24} h`; }
        if (hours) { return `${hours} h ${minutes % 60} min`; }
        return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
    };

    function say(text, tone) {
        find("said").textContent = text;
        find("said").className = tone ?? "";
    }

    // The token: kept until the tab is closed.

    const TOKEN = "echopool-token";
    let controllable = false;

    function showLock() {
        const token = sessionStorage.getItem(TOKEN);
        find("unlock").hidden = !controllable || token !== null;
        find("unlocked").hidden = !controllable || token === null;
        document.querySelectorAll(".control").forEach((one) => {
            one.disabled = token === null;
            one.title = token === null ? "needs the token" : "";
        });
    }

    find("unlock").addEventListener("submit", (event) => {
        event.preventDefault();
        const token = find("token").value.trim();
        find("token").value = "";
        if (token) {
            sessionStorage.setItem(TOKEN, token);
            showLock();
            say("The token is kept until this tab is closed.");
        }
    });

    find("lock").addEventListener("click", () => {
        sessionStorage.removeItem(TOKEN);
        showLock();
    });

    /** Sends a change. Returns the reply, or null after it has told what is wrong. */
    async function change(path, body) {
        const headers = { Authorization: "Bearer " + sessionStorage.getItem(TOKEN) };
        try {
            const reply = await fetch("/api/v1/" + path, { method: "POST", headers, body });
            const text = await reply.text();
            const isJson = (reply.headers.get("content-type") ?? "").includes("json");
            if (reply.ok) { return JSON.parse(text); }
            if (reply.status === 401 || text.startsWith("wrong token")) {
                sessionStorage.removeItem(TOKEN);
                showLock();
            }
            say(isJson ? JSON.parse(text).text : text.trim(), "bad");
        } catch (error) {
            say("The server does not reply: " + error.message, "bad");
        }
        return null;
    }

    // Who waits for the answer to a question.
    let asked = null;

    /** Asks before something is done that cannot be undone. */
    function ask(question) {
        const dialog = find("ask");
        find("question").textContent = question;
        dialog.returnValue = "no";
        dialog.showModal();
        // The event of an earlier question that was cancelled may not have come yet.
        asked?.(false);
        return new Promise((done) => { asked = done; });
    }

    find("ask").addEventListener("close", ({ target }) => {
        if (!target.open) {
            const done = asked;
            asked = null;
            done?.(target.returnValue === "yes");
        }
    });

    // Charts.

    const data = { time: [], connections: [], echoes: [], received: [], sent: [], buffers: [], median: [], late: [], sum: [], used: [] };
    const CHARTS = [
        ["connections", count, [["connections", "Connections"]]],
        ["echoes", count, [["echoes", "Echoes/s"]]],
        ["bytes", bytes, [["received", "Received/s"], ["sent", "Sent/s"]]],
        ["buffers", count, [["buffers", "Buffers"]]],
        ["turns", nanos, [["median", "Median"], ["late", "99 %"]]],
        ["memory", bytes, [["sum", "Sum"], ["used", "Used"]]],
    ];
    let charts = [];

    const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const lines = (of) => [data.time, ...of.map(([name]) => data[name])];

    function drawCharts() {
        charts.forEach(({ chart }) => chart.destroy());
        const [text, line, colours] = [style("--faint"), style("--line"), style("--series").split(" ")];
        const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
        charts = CHARTS.map(([name, show, of]) => {
            const at = find("chart-" + name);
            const series = of.map(([, label], nth) => ({
                label,
                stroke: colours[nth],
                width: 1.5,
                points: { show: false },
                value: (u, value) => (value == null ? "–" : show(value)),
            }));
            const chart = new uPlot({
                width: at.clientWidth,
                height: CHART_HEIGHT,
                padding: [8, 12, 0, 0],
                scales: { y: { range: (u, min, max) => [0, Math.max(4, max * 1.08)] } },
                axes: [{ ...axis, space: 80, values: (u, at) => at.map(clock) }, { ...axis, size: 72, values: (u, at) => at.map(show) }],
                series: [{ value: (u, at) => (at == null ? "–" : clock(at)) }, ...series],
                cursor: { sync: { key: "time", setSeries: false } },
            }, lines(of), at);
            at.uplot = chart;
            return { chart, of, at };
        });
    }

    addEventListener("resize", () => charts.forEach(({ chart, at }) => {
        if (at.clientWidth !== chart.width) {
            chart.setSize({ width: at.clientWidth, height: CHART_HEIGHT });
        }
    }));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);

    // The status, once per second.

    let last = null;

    /** The time in nanoseconds which this share of the times does not exceed; null if there are none.
        Within a bucket they count as spread evenly. */
    function quantile(share, buckets, bounds) {
        let left = share * buckets.reduce((sum, one) => sum + one, 0);
        const nth = buckets.findIndex((one) => {
            if (one && left <= one) { return true; }
            left -= one;
            return false;
        });
        if (nth < 0) { return null; }
        const from = bounds[nth - 1] ?? 0;
        return from + ((bounds[nth] ?? from) - from) * left / buckets[nth];
    }

    function showStatus(status) {
        const { total, listeners } = status;
        controllable = status.controllable;
        find("version").textContent = status.version;
        find("uptime").textContent = span(status.now_unix_ns - status.started_unix_ns);
        const state = find("state");
        // The table of clients shows who they are.
        const left = `${whole(total.connections)} connection${total.connections === 1 ? "" : "s"} left`;
        state.textContent =
            status.ending ? "draining: " + left
            : status.not_ready ? "not ready: " + status.not_ready
            : "ready";
        state.className = "badge " + (status.not_ready ? "warn" : "good");
        const before = last?.started_unix_ns === status.started_unix_ns ? last : null;
        const seconds = before ? (status.now_unix_ns - before.now_unix_ns) / 1e9 : 0;
        const rate = (name) => (seconds > 0 ? (total[name] - before.total[name]) / seconds : null);
        const { bounds_ns: bounds, histograms: { turn_time: turns } } = status.times;
        const turnsBefore = before?.times.histograms.turn_time.buckets;
        const lately = turnsBefore ? turns.buckets.map((one, nth) => one - turnsBefore[nth]) : [];
        const point = {
            time: status.now_unix_ns / 1e9,
            connections: total.connections,
            echoes: rate("receives"),
            received: rate("bytes_received"),
            sent: rate("bytes_sent"),
            buffers: total.buffers_held,
            median: quantile(0.5, lately, bounds),
            late: quantile(0.99, lately, bounds),
            sum: status.memory_total_bytes,
            used: status.memory_resident_bytes,
        };
        for (const [name, value] of Object.entries(point)) {
            data[name].push(value);
            if (data[name].length > POINTS) { data[name].shift(); }
        }
        last = status;
        find("connections").textContent = `${whole(total.connections)} of ${count(status.max_connections)}`;
        find("echoes").textContent = point.echoes == null ? "–" : count(point.echoes);
        find("received").textContent = point.received == null ? "–" : bytes(point.received);
        find("sent").textContent = point.sent == null ? "–" : bytes(point.sent);
        find("buffers").textContent = `${whole(total.buffers_held)} of ${count(status.buffers)}`;
        const used = status.memory_resident_bytes == null ? "" : bytes(status.memory_resident_bytes) + " of ";
        find("memory").textContent = used + bytes(status.memory_total_bytes);
        if (!document.hidden) {
            charts.forEach(({ chart, of }) => chart.setData(lines(of)));
        }
        showListeners(listeners);
        showRecipients(listeners);
        showLock();
        refresh();
    }

    /** The rows of a table body, as many as there are values. Each keeps its cells and buttons, and with
        them the focus. */
    function rows(body, length, make) {
        while (body.rows.length > length) { body.deleteRow(-1); }
        while (body.rows.length < length) { body.append(make()); }
        return body.rows;
    }

    const cell = (row, nth, text) => {
        if (row.cells[nth].textContent !== text) { row.cells[nth].textContent = text; }
    };

    function makeRow(numbers, buttons) {
        const row = document.createElement("tr");
        numbers.forEach((isNumber) => { row.insertCell().className = isNumber ? "number" : ""; });
        const last = row.insertCell();
        buttons.forEach(([text, act]) => {
            const button = document.createElement("button");
            button.type = "button";
            button.className = "control";
            button.textContent = text;
            button.disabled = sessionStorage.getItem(TOKEN) === null;
            button.addEventListener("click", () => act(row, button));
            last.append(button, " ");
        });
        return row;
    }

    function showListeners(listeners) {
        const body = find("listeners").tBodies[0];
        const make = () => makeRow([false, false, false, true, false], [["", turn]]);
        const shown = rows(body, listeners.length, make);
        listeners.forEach((listener, nth) => {
            const row = shown[nth];
            row.listener = listener;
            cell(row, 0, String(listener.listener));
            cell(row, 1, listener.target ?? listener.endpoint);
            cell(row, 2, listener.service ?? "–");
            cell(row, 3, whole(listener.connections));
            cell(row, 4, listener.accepting ? "accepting" : "stopped");
            const button = row.querySelector("button");
            button.hidden = listener.endpoint.startsWith("udp:");
            const text = listener.accepting ? "Stop" : "Start";
            if (button.textContent !== text) { button.textContent = text; }
        });
    }

    async function turn(row) {
        const { listener, accepting, endpoint } = row.listener;
        if (await change(`listeners/${listener}/${accepting ? "stop" : "start"}`)) {
            say(accepting ? `${endpoint} accepts nothing more.` : `${endpoint} accepts again.`);
        }
    }

    find("drain").addEventListener("click", async () => {
        if (await ask("Drain? The server closes its listeners, finishes every connection, and ends.") &&
            await change("drain")) {
            say("The drain has begun.", "warn");
        }
    });

    find("reload").addEventListener("click", async () => {
        const reply = await change("reload");
        if (reply) { say(reply.text); }
    });

    // Messages.

    let chosen = null;

    function showRecipients(listeners) {
        const to = find("to");
        const options = listeners.map(({ listener, endpoint, service }) =>
            [`listener=${listener}`, `all of ${service ?? "listener " + listener} at ${endpoint}`]);
        if (chosen) { options.push([`to=${chosen.id}`, `client ${chosen.peer}`]); }
        const key = JSON.stringify(options);
        if (to.dataset.key !== key) {
            const { value } = to;
            to.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
            if (options.some(([one]) => one === value)) { to.value = value; }
            to.dataset.key = key;
        }
    }

    find("message").addEventListener("submit", async (event) => {
        event.preventDefault();
        const reply = await change("message?" + find("to").value, find("text").value);
        if (reply) {
            say(`Sent to ${whole(reply.queued)}` + (reply.refused ? `, not to ${whole(reply.refused)}.` : "."));
            find("text").value = "";
        }
    });

    // Clients.

    const COLUMNS = [
        ["id", "Id", true], ["peer", "Address", false], ["listener", "Listener", true],
        ["service", "Service", false], ["transport", "Transport", false], ["age_ns", "Age", true],
        ["bytes_received", "Received", true], ["bytes_sent", "Sent", true],
        ["output_bytes", "Waiting", true], ["state", "State", false],
    ];
    const query = { offset: 0, limit: 100, sort: "id", order: "asc", filter: "" };
    let asking = false;
    let again = false;
    let refreshed = -Infinity;

    const headRow = find("clients").tHead.rows[0];
    for (const [name, title, isNumber] of COLUMNS) {
        const head = document.createElement("th");
        head.scope = "col";
        head.className = isNumber ? "number" : "";
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = title;
        button.addEventListener("click", () => {
            // Of numbers, the largest first.
            const first = isNumber && name !== "id" && name !== "listener" ? "desc" : "asc";
            const other = query.order === "asc" ? "desc" : "asc";
            query.order = query.sort === name ? other : first;
            query.sort = name;
            query.offset = 0;
            refresh(true);
        });
        head.append(button);
        headRow.append(head);
    }
    headRow.append(document.createElement("th"));

    /** Asks for the clients, unless that was done just now. */
    async function refresh(now) {
        const pause = query.limit >= MANY ? REFRESH_MANY : REFRESH;
        if (!now && (document.hidden || performance.now() - refreshed < pause - 100)) { return; }
        if (asking) {
            again ||= now === true;
            return;
        }
        asking = true;
        refreshed = performance.now();
        try {
            const reply = await fetch("/api/v1/clients?" + new URLSearchParams(query));
            if (reply.ok) { showClients(await reply.json()); } else { say((await reply.text()).trim(), "bad"); }
        } catch {
            // The state says that the server does not reply.
        }
        asking = false;
        if (again) {
            again = false;
            refresh(true);
        }
    }

    function showClients({ total, matched, offset, clients }) {
        if (offset > 0 && clients.length === 0) {
            query.offset = Math.max(0, Math.floor((matched - 1) / query.limit) * query.limit);
            again = true;
            return;
        }
        const body = find("clients").tBodies[0];
        const make = () => makeRow(COLUMNS.map(([, , isNumber]) => isNumber),
            [["Message", choose], ["Disconnect", disconnect]]);
        const shown = rows(body, clients.length, make);
        clients.forEach((client, nth) => {
            const row = shown[nth];
            const known = (show, value) => (value == null ? "–" : show(value));
            row.client = client;
            [
                client.id, client.peer, String(client.listener), client.service ?? "–", client.transport,
                span(client.age_ns), known(bytes, client.bytes_received), known(bytes, client.bytes_sent),
                known(bytes, client.output_bytes), client.state ?? "–",
            ].forEach((text, nth) => cell(row, nth, text));
        });
        const end = offset + clients.length;
        const of = matched === total ? whole(total) : `${whole(matched)} of ${whole(total)}`;
        find("place").textContent = clients.length ? `${whole(offset + 1)}–${whole(end)} of ${of}` : `none of ${of}`;
        find("back").disabled = offset === 0;
        find("forward").disabled = end >= matched;
        [...headRow.cells].slice(0, COLUMNS.length).forEach((head, nth) => {
            const order = query.order === "asc" ? "ascending" : "descending";
            if (COLUMNS[nth][0] === query.sort) { head.setAttribute("aria-sort", order); } else { head.removeAttribute("aria-sort"); }
        });
    }

    function choose(row) {
        chosen = row.client;
        showRecipients(last.listeners);
        find("to").value = "to=" + chosen.id;
        find("text").focus();
    }

    async function disconnect(row) {
        // The row may show another client when the question is answered.
        const { id, peer } = row.client;
        if (await ask(`Disconnect ${peer} (id ${id})?`) && await change(`clients/${id}/disconnect`)) {
            say(`${peer} is disconnected.`);
            refresh(true);
        }
    }

    const move = (by) => () => {
        query.offset = Math.max(0, query.offset + by * query.limit);
        refresh(true);
    };
    find("back").addEventListener("click", move(-1));
    find("forward").addEventListener("click", move(1));
    find("limit").addEventListener("change", () => {
        query.limit = Number(find("limit").value);
        query.offset = 0;
        refresh(true);
    });
    find("filter").addEventListener("input", () => {
        query.filter = find("filter").value;
        query.offset = 0;
        refresh(true);
    });
    find("search").addEventListener("submit", (event) => event.preventDefault());

    drawCharts();
    showLock();
    const events = new EventSource("/api/v1/events");
    let lost = 0;
    events.addEventListener("message", (event) => {
        clearTimeout(lost);
        showStatus(JSON.parse(event.data));
    });
    // The stream ends now and then and is opened again at once.
    events.addEventListener("error", () => {
        clearTimeout(lost);
        lost = setTimeout(() => {
            find("state").textContent = "no reply from the server";
            find("state").className = "badge bad";
        }, 3000);
    });
})();
