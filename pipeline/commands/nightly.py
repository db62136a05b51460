"""The command that scores every student, holds it against its history, and says so: by the clock, without Dagster's."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

from rich.console import Console
from rich.markup import escape

from assets.checks import Verdict, judge_history
from pipeline.alerts import Alert, AlertError, send_alert, told_failures
from pipeline.commands.options import ConfiguredCommand
from pipeline.commands.runs import tell_failures
from pipeline.presets import PresetName
from pipeline.resources import alert_channels_from_environment
from pipeline.run import run_tasks
from pipeline.workflow import plan, prepare_home
from storage.kinds import Kind
from storage.stores.versioned import Home
from student.config import Variant
from student.evaluation.history import evaluation_history


@dataclass(frozen=True, kw_only=True)
class Nightly(ConfiguredCommand):
    """Score every student that has a checkpoint, compare it with its history, and send an alert if it became worse.

    Writes report/trend.html into the home. The schedules of 'distillnerf ui' do the same by the clock; this command is
    for a clock of one's own, such as cron.

    Attributes:
        only_judge: Score nothing: judge the evaluations that are there, and write the page.
    """

    default_preset: ClassVar[PresetName | None] = "tiny"
    only_judge: bool = False

    def run(self, console: Console) -> int:
        """Score and judge; return 1 if a student became worse, failed its gate, or could not be scored."""
        home = self.open_home(must_exist=True)
        channels = alert_channels_from_environment()
        selection = self.selection(home)
        students = [v for v in get_args(Variant) if home.latest(Kind.STUDENT_CHECKPOINT, v) is not None]
        alerts: list[Alert] = []
        if students and not self.only_judge:
            prepare_home(home)
            outcome = run_tasks(
                plan({"student_evaluation": students, "report": students}, selection),
                home.root,
                console,
                num_workers=1,
            )
            tell_failures(outcome, console)
            alerts += [
                Alert(
                    title=f"distillnerf: {failure['task']} failed", lines=(failure["message"],), asset=failure["asset"]
                )
                for failure in outcome.failures
            ]
        for variant in students:
            evaluation = home.latest(Kind.STUDENT_EVALUATION, variant)
            if evaluation is None:
                continue
            verdicts = judge_history(home, evaluation)
            tell_verdicts(variant, verdicts, console)
            failed = [verdict._asdict() for verdict in verdicts if verdict.outcome == "failed"]
            if failed:
                title = f"distillnerf: student {variant} failed its nightly check"
                alerts.append(
                    Alert(
                        title=title, lines=told_failures(failed), asset=evaluation.kind, partition=evaluation.partition
                    )
                )
        page = write_trend(home)
        console.print(f"trend  {escape(str(page))}", soft_wrap=True)
        for alert in alerts if channels.are_named else ():
            try:
                send_alert(alert, channels)
            except AlertError as error:
                console.print(f"[red]alert {escape(str(error))}[/red]", soft_wrap=True)
        return 1 if alerts else 0


def tell_verdicts(variant: str, verdicts: list[Verdict], console: Console) -> None:
    """Print what became of a student, a line for each figure that failed."""
    failed = [verdict for verdict in verdicts if verdict.outcome == "failed"]
    if not failed:
        console.print(f"[green]✓[/green] {variant}: {len(verdicts) - 1} figures hold", soft_wrap=True)
    for one in failed:
        said = f"[red]✗[/red] {variant}: {one.name} is {one.value}, want {one.wanted} ({one.hint or one.where})"
        console.print(said, soft_wrap=True)


def write_trend(home: Home) -> Path:
    """Write the page of every student's history to ``<home>/report/trend.html``, and return its path."""
    from student.reporting.trend import trend_page

    current = {
        variant: version
        for variant in get_args(Variant)
        if (version := home.latest(Kind.STUDENT_EVALUATION, variant)) is not None
    }
    histories = {variant: evaluation_history(home, variant) for variant in current}
    page = home.root / "report" / "trend.html"
    page.parent.mkdir(exist_ok=True)
    page.write_text(trend_page(histories, current), encoding="utf-8")
    return page
