"""What a look at the data found, as a list on a page."""

from __future__ import annotations

from collections.abc import Sequence

from gfl.data.check.findings import Finding
from gfl.report.html_parts import folded, items, text


def findings_list(findings: Sequence[Finding]) -> str:
    """The worst first."""
    if not findings:
        return "<p>Nothing wrong was found.</p>"
    rows = []
    for each in sorted(findings, key=lambda found: (not found.is_fatal, found.is_note)):
        kind = "unusable" if each.is_fatal else "note" if each.is_note else "finding"
        more = folded("examples", items(each.examples)) if each.examples else ""
        rows.append(f'<li><span class="{kind}">{kind}</span>: {text(each.text)}{more}</li>')
    return f"<ul>{''.join(rows)}</ul>"
