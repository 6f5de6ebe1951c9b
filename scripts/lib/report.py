# Results as a table on the terminal, a page of Markdown, and the raw data as JSON.

import json
import os


class Table:
    """Rows of text under a header. The first `left` columns are left-aligned, the others right."""

    def __init__(self, header, left=2):
        self.header = header
        self.left = left
        self.rows = []

    def add(self, *cells):
        assert len(cells) == len(self.header), cells
        self.rows.append([str(cell) for cell in cells])

    def lines(self):
        every = [self.header] + self.rows
        widths = [max(len(row[column]) for row in every) for column in range(len(self.header))]
        for row in every:
            cells = [
                cell.ljust(width) if column < self.left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths))
            ]
            yield "  ".join(cells).rstrip()

    def markdown(self):
        rules = ["---" if column < self.left else "---:" for column in range(len(self.header))]
        for row in [self.header, rules] + self.rows:
            yield "| " + " | ".join(row) + " |"


class Figure:
    """One figure: its title, its table, its raw data, and notes."""

    def __init__(self, name, title, table, raw, notes=()):
        self.name = name
        self.title = title
        self.table = table
        self.raw = raw
        self.notes = notes

    def print(self):
        print(f"\n{self.title}\n")
        for line in self.table.lines():
            print("  " + line)
        for note in self.notes:
            print(f"  {note}")
        print(flush=True)

    def write(self, directory, machine, command):
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, self.name)
        with open(path + ".json", "w", encoding="utf-8") as raw:
            json.dump({"machine": machine, "command": command, "raw": self.raw}, raw, indent=1)
            raw.write("\n")
        with open(path + ".md", "w", encoding="utf-8") as page:
            page.write(f"# {self.title}\n\n`{command}`, {_machine_line(machine)}\n\n")
            page.write("\n".join(self.table.markdown()) + "\n")
            for note in self.notes:
                page.write(f"\n{note}\n")
            page.write(f"\nRaw data: [{self.name}.json]({self.name}.json)\n")


def _machine_line(machine):
    return (f"{machine['date']}, Linux {machine['kernel']}, {machine['cpus']} CPUs"
            f" ({machine['cpu']}), load average at start {machine['load_average_at_start']:.2f}")
