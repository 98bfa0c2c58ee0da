"""The page in a real browser: it must draw, list, filter and stay inert."""

import html
import json
import re
import struct

import pytest

from rlpost.tracking.files.jsonl import MetricsWriter
from rlpost.tracking.report.report import ReportTracker, render, write_report
from rlpost.tracking.tracker import RunStatus

CARDS = 15  # charts of the synthetic run, without "any metric"


@pytest.fixture(scope="module")
def page(tmp_path_factory, runs):
    return write_report(runs.build_run_dir(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def whole(page, browser):
    """The DOM of the page without a filter."""
    return browser.dump(page.as_uri())


def _rows(dom):
    body = re.search(r"<tbody>(.*?)</tbody>", dom, re.DOTALL)[1]
    return re.findall(r"<tr\b.*?</tr>", body, re.DOTALL)


def _shown(dom):
    return re.search(r'<output id="shown"[^>]*>([^<]*)<', dom)[1]


def _healthy(dom):
    error = re.search(r'<pre id="page-errors"[^>]*>', dom)[0]
    return 'data-ready="yes"' in dom and "hidden" in error and "data-page-error" not in dom


def test_every_curve_is_drawn_without_an_error(whole):
    assert _healthy(whole)
    plots = re.findall(r'<div class="plot[^"]*" id="chart-([\w-]+)"', whole)
    assert len(plots) == CARDS + 1
    assert whole.count('class="main-svg"') >= len(plots)
    lines = len(re.findall(r'class="js-line"', whole))
    assert lines >= 15, lines
    assert len(re.findall(r'class="trace bars"', whole)) == 4  # gen, reward, actor, weights
    assert "arithmetic: 0.205 at step 0, 0.639 at step 14" in whole  # for screen readers


def test_the_headlines_are_there(whole):
    for part in ("0.639", "from 0.205 at step 0", "7 min 00 s", "Tokens per second"):
        assert part in whole


def test_the_table_lists_samples_page_by_page(whole):
    assert len(_rows(whole)) == 40
    assert _shown(whole).startswith("226 of 226 samples match, mean reward ")


FILTERS = {
    "step=3": 16,
    "step=3&min_reward=1": 3,
    "step=3&max_reward=0.5": 13,
    "step=3&finish=length": 1,
    "step=3&q=WHAT+IS+4": 1,
    "step=3&q=no+such+text": 0,
    "step=2&q=owned": 1,
    "q=late": 1,
    "": 226,
}
_PROBE = """<pre id="probe"></pre><script>(async () => {
  const found = {};
  for (const address of ADDRESSES) {
    const moved = new Promise((done) => addEventListener("hashchange", done, { once: true }));
    location.hash = address || "q=";
    await moved;
    document.querySelector("tbody button")?.click();
    found[address] = {
      shown: document.getElementById("shown").textContent,
      rows: document.querySelectorAll("tbody tr:not(.detail)").length,
      body: document.querySelector("tbody").innerHTML,
      title: document.title,
    };
  }
  document.getElementById("probe").textContent = JSON.stringify(found);
})();</script>"""


@pytest.fixture(scope="module")
def filtered(page, browser):
    """Address -> what the table shows there with its first row opened."""
    probe = _PROBE.replace("ADDRESSES", json.dumps(list(FILTERS)))
    copy = page.with_name("probed.html")
    copy.write_text(page.read_text().replace("</body>", probe + "</body>"))
    dom = browser.dump(copy.as_uri())
    assert _healthy(dom)
    return json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)[1]))


@pytest.mark.parametrize(("address", "count"), FILTERS.items())
def test_filters_follow_the_address(filtered, address, count):
    found = filtered[address]
    assert found["shown"].startswith(f"{count} of 226 samples match")
    assert found["rows"] == min(40, count or 1)
    assert count or "No sample matches" in found["body"]


def test_an_address_can_be_opened_directly(page, browser):
    dom = browser.dump(f"{page.as_uri()}#step=3&min_reward=1")
    assert _healthy(dom)
    assert _shown(dom) == "3 of 226 samples match, mean reward 1.000"
    assert all("<td>3</td>" in row for row in _rows(dom))


def test_hostile_text_is_shown_and_never_run(filtered, whole):
    found = filtered["step=2&q=owned"]
    assert found["title"] == "demo · rlpost"
    assert "&lt;/script&gt;&lt;script&gt;" in found["body"] and "<img" not in found["body"]
    assert "<mark>owned</mark>" in found["body"]
    assert "timeout of &lt;b&gt;one&lt;/b&gt; sample" in whole


def test_the_parts_of_a_reward_are_shown_with_what_was_said(filtered):
    body = filtered["step=2&q=owned"]["body"]
    assert re.search(r'class="part"[^>]*>correct 0<', body)
    assert re.search(r'class="part"[^>]*>short 0.5<', body)
    assert re.search(r'class="verdict">short: 0.5<span class="info">', body)
    assert "words: 7" in body and "half: ?" in body
    assert "x" * 300 + "…" in body and "x" * 301 not in body
    assert 'class="part"' not in filtered["step=3"]["body"]  # one verdict is the reward


def test_a_run_that_does_not_learn_has_a_banner(tmp_path, runs, browser, whole):
    assert 'id="signs"' not in whole  # negative control: this one learns
    run_dir = runs.build_run_dir(tmp_path, steps=2)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    nothing = {"critic/score/mean": 0.0, "critic/score/min": 0.0, "critic/score/max": 0.0}
    lines = [json.dumps({**row, **(nothing if row["step"] else {})}) for row in rows]
    (run_dir / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    dom = browser.dump(write_report(run_dir).as_uri())
    assert _healthy(dom)
    banner = re.search(r'<section id="signs".*?</section>', dom, re.DOTALL)[0]
    assert "<strong>No response of steps 1 and 2 got a reward above 0.</strong>" in banner
    assert "rollouts/step_000002.jsonl" in banner and banner.count("<li>") == 1


def test_missing_heldout_data_alone_is_no_alarm(tmp_path, runs):
    run_dir = runs.build_run_dir(tmp_path, steps=2)
    assert 'class="signs' not in render(run_dir)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    lines = [json.dumps({k: v for k, v in r.items() if k[:4] != "val-"}) for r in rows if r["step"]]
    (run_dir / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert '<section id="signs" class="signs mild"' in render(run_dir)


def test_text_that_is_no_text_does_not_cost_the_page(tmp_path, runs):
    run_dir = runs.build_run_dir(tmp_path, steps=1)
    (run_dir / "config.yaml").write_bytes(b"note: \xff\n")
    samples = run_dir / "rollouts" / "step_000001.jsonl"
    sample = json.loads(samples.read_text().splitlines()[0])
    sample["verdicts"][0]["info"] = {"\udfff": ["\ud800", {"deep": 1}]}
    samples.write_text(json.dumps(sample) + "\n" + "[" * 100_000 + "\n")
    text = write_report(run_dir).read_text(encoding="utf-8")
    assert "a line is not a sample" in text and "deep" in text


def test_a_failed_verdict_is_not_a_zero(filtered):
    found = filtered["q=late"]
    assert "no verdict" in found["body"] and "math: timeout" in found["body"]
    assert found["shown"] == "1 of 226 samples match"


def test_an_error_in_the_page_would_be_seen(page, browser, tmp_path):
    """Negative control of the health check: a broken script shows."""
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("drawAll();", "drawNothing();", 1))
    dom = browser.dump(broken.as_uri())
    assert not _healthy(dom) and "drawNothing is not defined" in dom


def test_an_image_of_it_has_colours_of_both_schemes(page, browser, tmp_path):
    sizes = {}
    for scheme, flags in {
        "light": (),
        "dark": ("--blink-settings=preferredColorScheme=0",),
    }.items():
        target = tmp_path / f"{scheme}.png"
        browser.run(*flags, "--window-size=1000,800", f"--screenshot={target}", page.as_uri())
        data = target.read_bytes()
        assert struct.unpack(">II", data[16:24]) == (1000, 800)
        sizes[scheme] = data
    assert min(map(len, sizes.values())) > 15_000  # an empty page has about 5 kB
    assert sizes["light"] != sizes["dark"]


def test_the_page_asks_the_network_for_nothing(page):
    text = page.read_text()
    own = text.replace(re.search(r"<script>/\*\*.*?</script>", text, re.DOTALL)[0], "")
    assert len(own) < 400_000  # plotly.js was cut out
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", own.replace("src=x", ""))
    assert "http://" not in own and "https://" not in own
    assert "default-src 'none'" in own


def test_the_page_stays_small(page):
    assert page.stat().st_size < 8_000_000


@pytest.fixture(scope="module")
def timed_page(tmp_path_factory, runs):
    """The page of a run that recorded spans and staleness; one name is hostile."""
    run_dir = tmp_path_factory.mktemp("timed")
    trace = runs.write_trace(run_dir / "trace.json", steps=6)
    trace.write_text(trace.read_text().replace("push v6", json.dumps(runs.EVIL)[1:-1]))
    writer = MetricsWriter(run_dir / "metrics.jsonl")
    for step in range(1, 7):
        name = "training/off_policy/staleness"
        writer.log(step, {f"{name}/0": 0.75, f"{name}/1": 0.25})
    return write_report(run_dir)


_HOVER = """<pre id="probe"></pre><script>(async () => {
  const plot = document.getElementById("timeline-plot"), texts = {};
  for (const [curve, trace] of plot.data.entries()) {
    Plotly.Fx.hover(plot, [{ curveNumber: curve, pointNumber: trace.x.length - 1 }]);
    await new Promise((done) => setTimeout(done, 200));  // Plotly holds quick hovers back
    texts[trace.name] = [...plot.querySelectorAll(".hoverlayer text")].map((t) => t.textContent);
  }
  document.getElementById("probe").textContent = JSON.stringify(texts);
})();</script>"""


def test_where_the_time_went_is_drawn_with_names_and_durations(timed_page, browser):
    copy = timed_page.with_name("hovered.html")
    copy.write_text(timed_page.read_text().replace("</body>", _HOVER + "</body>"))
    dom = browser.dump(copy.as_uri())
    assert _healthy(dom)
    assert "Where the time went" in dom and '<a href="#timeline">' in dom
    picture = dom[dom.index('id="timeline-plot"') :]
    picture = picture[: picture.index("</figure>")]
    assert len(re.findall(r'class="trace bars"', picture)) == 5  # run, generator, push, ...
    assert len(re.findall(r'class="point"', picture)) == 4 * (1 + 4 + 30) + 1
    for text in ("generator 10 · 100 %", "trainer · 50 %", "driver · 0 %", "step 6"):
        assert f">{text}<" in picture
    assert "Share of time busy: bus · 2 %, driver" in picture  # for screen readers
    hovers = json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)[1]))
    assert hovers["train"] == ["trainer", "train 15.0 sstep 6"]
    assert "</script><script>" in "".join(hovers["push"])
    assert "<img" not in dom and "<title>owned" not in dom


def test_staleness_is_a_stack_of_lags(timed_page, browser):
    dom = browser.dump(timed_page.as_uri())
    assert _healthy(dom) and ">lag 0<" in dom and ">lag 1<" in dom
    assert re.findall(r'id="chart-([\w-]+)"', dom) == ["staleness", "any"]


def test_without_a_trace_there_is_no_such_section(page):
    assert "timeline-plot" not in re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.S)


def test_a_damaged_trace_costs_a_note(tmp_path, browser):
    (tmp_path / "trace.json").write_text("[\nbroken,\n{}")
    dom = browser.dump(write_report(tmp_path).as_uri())
    assert _healthy(dom) and "timeline-plot" not in dom
    assert "trace.json: a line is not an event" in dom


def test_a_rewind_rebuilds_a_page_that_is_there(tmp_path, runs):
    tracker = ReportTracker(tmp_path)
    tracker.rewind(-1)
    assert not (tmp_path / "report.html").exists()
    tracker.close(RunStatus.done)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time_s": 2.0, "actor/entropy": 0.5}\n')
    tracker.rewind(1)
    assert 'id="chart-entropy"' in (tmp_path / "report.html").read_text()


def test_missing_metrics_give_no_empty_charts(tmp_path, browser):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time_s": 2.0, "actor/entropy": 0.5}\n')
    dom = browser.dump(write_report(tmp_path).as_uri())
    assert _healthy(dom)
    assert re.findall(r'id="chart-([\w-]+)"', dom) == ["entropy", "any"]
    assert "sample-table" not in dom and 'id="config"' not in dom


def test_an_empty_run_is_a_friendly_page(tmp_path, browser):
    dom = browser.dump(write_report(tmp_path).as_uri())
    assert _healthy(dom) and "Nothing has been measured yet" in dom
    assert "chart-" not in dom


def test_it_is_rebuilt_at_evaluations_and_at_the_end(tmp_path, runs):
    run_dir = runs.build_run_dir(tmp_path)
    tracker = ReportTracker(run_dir)
    tracker.log(7, {"critic/score/mean": 1.0})
    assert not (run_dir / "report.html").exists()
    tracker.log(1, {"critic/score/mean": 1.0})  # the first steps show what is wrong
    (run_dir / "report.html").unlink()
    tracker.log(7, {"val-core/a/acc/mean@1": 1.0})
    first = (run_dir / "report.html").read_text()
    (run_dir / "config.yaml").write_text("changed: true\n")
    tracker.close(RunStatus.done)
    assert (run_dir / "report.html").read_text() == render(run_dir) != first
    assert not list(run_dir.glob(".report*"))


def test_a_page_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "report.html").mkdir()
    ReportTracker(tmp_path).close(RunStatus.done)
    assert "writing report.html failed" in caplog.text


def test_without_a_browser_the_checks_fail_and_name_the_package(browser, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(AssertionError, match="Debian package 'chromium'"):
        type(browser)()
