"""The page of a stage that learns from a data set, in a real browser."""

import html
import json
import re

import pytest

from rlpost.tracking.files.examples import write_examples
from rlpost.tracking.files.jsonl import MetricsWriter
from rlpost.tracking.report.report import write_report
from rlpost.tracking.report.report_data import report_data
from rlpost.tracking.tracker import RunStatus

PROBE = """<pre id="probe"></pre><script>(function () {
  const form = document.getElementById("example-filters"), found = {};
  const look = (name) => {
    form.dispatchEvent(new Event("input"));
    const shown = [...document.querySelectorAll(".example")].filter((each) => !each.hidden);
    found[name] = [document.getElementById("examples-shown").textContent, shown.length];
  };
  look("all");
  form.elements.source.value = "code";
  look("code");
  form.elements.q.value = "ANSWER 1";
  look("one");
  found.title = document.title;
  document.getElementById("probe").textContent = JSON.stringify(found);
})();</script>"""


def example(number, *, source, text):
    return {
        "source": source,
        "address": f"{source}.jsonl:{number}",
        "num_tokens": 2000,
        "num_trained": 40,
        "runs": [[f"question {number}\n", False], [text, True]],
    }


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, runs):
    root = tmp_path_factory.mktemp("runs") / "tuned"
    metrics = MetricsWriter(root / "metrics.jsonl")
    metrics.log(0, {"sft/heldout_loss/chat": 2.5, "sft/heldout_loss/code": 3.5})
    for step in range(1, 5):
        metrics.log(
            step,
            {
                "sft/loss": 2.0 / step,
                "sft/grad_norm": 1.0,
                "sft/lr": 2e-5,
                "training/epoch": 0.25 * step,
                "perf/throughput": 5120.0,
                "timing_s/step": 1.0,
                "cost/core_s": 3600.0 * step,
                "cost/lost/core_s": 1800.0,
                "cost/tokens/trained": 1e3 * step,
            },
        )
    metrics.log(4, {"sft/heldout_loss/chat": 1.5, "sft/heldout_loss/code": 2.5})
    metrics.close(RunStatus.done)
    examples = [example(n, source="code", text=f"answer {n}") for n in range(3)]
    examples.append(example(3, source="chat", text=runs.EVIL))
    examples.append(example(4, source="chat", text="x" * 5000))
    write_examples(root / "examples.jsonl", examples)
    (root / "config.yaml").write_text("run:\n  name: tuned\ntrainer:\n  steps: 4\n")
    return root


def test_the_headlines_are_those_of_a_supervised_run(run_dir):
    shown = {each.label: (each.value, each.note) for each in report_data(run_dir).headlines}
    assert shown["Held-out loss, step 4"] == ("2.000", "from 3.000 at step 0")
    assert shown["Training loss"] == ("0.5000", "from 2.0000")
    assert shown["Cost"] == ("4.00 core hours", "0.50 of them lost")
    assert not any("reward" in label.lower() for label in shown)


def test_the_page_draws_its_curves_and_shows_masks(run_dir, browser):
    page = write_report(run_dir)
    page.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    dom = browser.dump(page.as_uri())
    assert 'data-ready="yes"' in dom and re.search(r'id="page-errors"[^>]* hidden', dom)
    for title in ("Does sft learn?", "Where does the time go?", "What did it cost?"):
        assert title in dom
    assert "Does pretrain learn?" not in dom  # the epoch, which every stage has, is of none
    plots = re.findall(r'id="chart-([\w-]+)"', dom)
    assert {"held-out-loss-of-sft", "training-loss-of-sft", "epoch", "tokens"} <= {*plots}
    assert 'id="samples"' not in dom and 'id="examples"' in dom
    assert '<mark class="trained">answer 1</mark>' in dom
    assert "question 1\n<mark" in dom  # what is not trained is not marked
    assert "3,800 characters" in dom  # of 5,000
    found = json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dom, re.S)[1]))
    assert found == {
        "all": ["5 of 5 examples match", 5],
        "code": ["3 of 5 examples match", 3],
        "one": ["1 of 5 examples match", 1],
        "title": "tuned · rlpost",  # hostile text was shown and not run
    }


def test_a_damaged_file_of_examples_costs_a_note(run_dir, tmp_path):
    (tmp_path / "examples.jsonl").write_text("broken\n")
    data = report_data(tmp_path)
    assert data.examples == [] and "examples.jsonl:1" in data.warnings[0]["message"]
