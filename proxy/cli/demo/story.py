"""The story that the demo tells, in seven chapters of some ten seconds each. All of it really happens; nothing is drawn that is not so."""

from __future__ import annotations

import asyncio
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal

from proxy.cli.demo.levelling import VILLAGERS, Levelling
from proxy.cli.demo.screen import BOLD, CYAN, DIM, GREEN, RED, YELLOW, Screen
from proxy.cli.demo.sharing import Sharing
from proxy.cli.demo.town import SCARCE_SEATS, Ending, Person, Town, Unexpected
from proxy.domain import credits_from_nanocredits

COLUMNS_BESIDE_BAR = 50
BAR_CELLS_MIN = 8
AT_ONCE, ADMITTED = 50, 13
MARKS_IN_ROW = 25
LAST_WORDS_MAX = 10
READING_S = 3.0
LINE_WORDS = 20
STORY_LINES = 6


class Story:
    """The chapters, in order; `pace` stretches (or shortens) how long there is to read."""

    def __init__(self, screen: Screen, town: Town, *, pace: float, generated_tokens: Callable[[], int]) -> None:
        self._screen = screen
        self._town = town
        self._pace = pace
        self._generated_tokens = generated_tokens

    async def tell(self) -> None:
        await self._everyone_has_a_share()
        await self._cut()
        await self._many_at_once()
        await self._top_up_and_agent()
        await self._scarce()
        await self._unequal()
        await self._audit()

    # --- 1 -----------------------------------------------------------------------------------------------------------------------

    async def _everyone_has_a_share(self) -> None:
        self._screen.chapter("1  Everyone has a budget, and every word is debited from it")
        self._screen.say(
            "A word costs 0.001 credit. Otto asks for four endless answers at once; Mira and Ines ask for little. Each word is paid at "
            "every level above: by the user, the team and the organisation, in one step. See who runs out, and who does not."
        )
        await self._pause(READING_S)
        open_ = self._town.open
        lab = await open_("org:lab", "3")
        team = await open_("team:night", "2", below=lab)
        self.mira = mira = await open_("user:mira", "0.6", below=team)
        otto = await open_("user:otto", "0.5", below=team)
        ines = await open_("user:ines", "0.6")
        self._family = [lab, team, mira]
        async with self._bars([lab, team, mira, otto, ines]):
            await asyncio.gather(
                *(otto.listen("Tell me everything, without end.", 5000) for _ in range(4)),
                self._ask_twice(mira, 80),
                self._ask_twice(ines, 40),
            )
            await self._ask_until_refused(otto)
            await mira.listen("And one more thing?", 30)
        self._screen.say("Otto used up his own share and nobody else's. What he asked for beyond it was refused before it cost anything.")
        await self._pause(READING_S)

    async def _ask_twice(self, person: Person, words: int) -> None:
        for question in ("Why is the sky blue?", "And why is it dark at night?"):
            await person.listen(question, words)

    async def _ask_until_refused(self, person: Person) -> None:
        for _ in range(LAST_WORDS_MAX):
            if (await person.ask("More!", 100)).code is not None:
                return
        raise Unexpected(f"{person.id} gets more than the budget")

    # --- 2 -----------------------------------------------------------------------------------------------------------------------

    async def _cut(self) -> None:
        self._screen.chapter("2  A stream ends where the budget ends")
        self._screen.say("Nora has 60 words' worth left and asks for a streamed answer of 1,000 words.")
        self.nora = nora = await self._town.open("user:nora", "0.0605")
        heard: list[str] = []
        await self._pause(READING_S)

        def draw() -> Sequence[str]:
            words = textwrap.wrap("".join(heard), self._screen.width - 6)[-STORY_LINES:]
            return [*self._bar_lines([nora]), *(f"    {self._screen.paint(line, CYAN)}" for line in words)]

        async with self._screen.moving(draw, refresh=nora.refresh):
            ending = await nora.listen("Tell me a very long story.", 1000, on_word=heard.append)
        self._screen.say(
            f"She received {ending.words} words and was charged for {ending.words}. Then her client was told why, in its own language:"
        )
        shown = self._screen.wrapped(ending.last.replace(",", ", "), indent="    ")
        self._screen.print(*(self._screen.paint(line, RED) for line in shown), self._screen.paint("    data: [DONE]", RED))
        self._screen.say("Official SDKs raise this as an error. A stream never just stops, for that would look like a complete answer.")
        await self._pause(2 * READING_S)

    # --- 3 -----------------------------------------------------------------------------------------------------------------------

    async def _many_at_once(self) -> None:
        self._screen.chapter(f"3  {AT_ONCE} requests at the same moment, a budget for {ADMITTED}")
        self._screen.say("Two worker processes share one ledger; what a request may cost is reserved in one atomic step before it runs.")
        prompt = "One line, please."
        reserved = Decimal(len(prompt) + 8 + 16) / 100_000 + Decimal(LINE_WORDS) / 1000
        kiosk = await self._town.open("user:kiosk", str(ADMITTED * reserved))
        await self._pause(READING_S)
        endings: list[Ending | None] = [None] * AT_ONCE

        async def visit(number: int) -> None:
            endings[number] = await kiosk.ask(prompt, LINE_WORDS)

        def draw() -> Sequence[str]:
            rows = (endings[start : start + MARKS_IN_ROW] for start in range(0, AT_ONCE, MARKS_IN_ROW))
            return [*self._bar_lines([kiosk]), *("    " + " ".join(map(self._mark, row)) for row in rows)]

        async with self._screen.moving(draw, refresh=kiosk.refresh):
            await asyncio.gather(*map(visit, range(AT_ONCE)))
        codes = Counter(ending.code for ending in endings if ending is not None)
        served = codes.pop(None, 0)
        self._screen.say(
            f"{served} were answered, {codes.total()} told to come back ({', '.join(map(str, codes))}): not one too many, not one too few. "
            f"Overspent: {max(Decimal(0), kiosk.spent - kiosk.limit)}."
        )
        if served != ADMITTED:
            raise Unexpected(f"{served} requests ran on a budget for {ADMITTED}")
        await self._pause(READING_S)

    def _mark(self, ending: Ending | None) -> str:
        letter, colour = ("·", DIM) if ending is None else ("✓", GREEN) if ending.code is None else ("x", RED)
        return self._screen.paint(self._screen.letter(letter), colour)

    # --- 4 -----------------------------------------------------------------------------------------------------------------------

    async def _top_up_and_agent(self) -> None:
        self._screen.chapter("4  Top-ups, and agents that cannot run away")
        self._screen.say(
            "The operator grants Nora 0.1 credit, so she goes on at once. Mira starts an agent below her own account, with 0.05 credit "
            "of its own; it works without pause until its limit stops it. It spends from Mira, the team and the organisation too."
        )
        await self._pause(READING_S)
        await self._town.admin("POST", f"accounts/{self.nora.id}/grants", {"credits": "0.1", "reason": "top-up"})
        agent = await self._town.open("agent:mira-1", "0.05", below=self.mira)

        async def work() -> None:
            while (await agent.listen("Next step?", 15)).code is None:
                pass

        async with self._bars([self.nora, *self._family, agent]):
            await asyncio.gather(self.nora.listen("Please go on.", 60), work())
        self._screen.say("The agent stopped at its own limit; Mira's other credits are untouched.")
        await self._pause(READING_S)

    # --- 5 -----------------------------------------------------------------------------------------------------------------------

    async def _scarce(self) -> None:
        self._screen.chapter("5  A scarce model is shared by weight, not by who asks most")
        sharing = Sharing(self._screen, self._town)
        await sharing.open()
        first_come = sharing.first_come(sharing.greedy)
        self._screen.say(
            f"This model serves {SCARCE_SEATS} requests at a time. Greta keeps 32 waiting, Lena and Paul 4, Rosa one. First come, first "
            f"served would give Greta {first_come:.0%}. Here a free seat goes to whoever was served least for their weight; Paul's is 2."
        )
        await self._pause(READING_S)
        await sharing.run()
        self._screen.say(
            f"Greta got {sharing.share(sharing.greedy):.0%}, her share is {sharing.entitlement(sharing.greedy):.0%}. No seat was kept free "
            "for anybody: were she alone, she would have them all."
        )
        await self._pause(READING_S)

    # --- 6 -----------------------------------------------------------------------------------------------------------------------

    async def _unequal(self) -> None:
        self._screen.chapter("6  Who gets it all, and what an intervention does to it")
        self._screen.say(
            f"Two masters, each a guild of their own, and a village of {VILLAGERS} want the same dear model. Guilds and village share "
            "alike, so the masters get two thirds. How equal is that? On the dotted line of Lorenz's curve all would have the same."
        )
        await self._pause(READING_S)
        levelling = Levelling(self._screen, self._town)
        await levelling.open()
        async with levelling.pressing():
            before = await levelling.as_it_is()
            self._screen.say(
                f"The policy 'cap' is a dry run. It would act, because {before.reason}. Now the operator switches it on: whoever "
                "had more than their part of today takes only seats that nobody else wants."
            )
            after = await levelling.with_cap()
        ending = await levelling.released()
        self._screen.say(
            f"Gini went from {before.gini:.2f} to {after.gini:.2f}, and no seat stayed empty. With nobody waiting any more the cap "
            f"{ending}. Each step is in the audit log, with the figures before and after."
        )
        await self._pause(READING_S)

    # --- 7 -----------------------------------------------------------------------------------------------------------------------

    async def _audit(self) -> None:
        self._screen.chapter("7  Nothing is lost, nothing is free")
        report = await self._town.admin("POST", "audit")
        own, charged = self._town.own_count_nanocredits(), await self._town.charged_nanocredits()
        words, held = sum(person.words for person in self._town.people), sum(person.held for person in self._town.people)
        generated = self._generated_tokens()
        verdict = "the books balance" if not report["broken"] else f"BROKEN: {report['broken']}"
        comparison = "the same, to the last digit" if own == charged else "NOT THE SAME"
        self._screen.print(
            self._figure("the clients counted", f"{credits_from_nanocredits(own)} credits, for {words} words and their questions"),
            self._figure("the ledger charged", f"{credits_from_nanocredits(charged)} credits: {comparison}"),
            self._figure("still held", f"{held} credits"),
            self._figure("the model generated", f"{generated} words; the {generated - words} cut off were not charged"),
            self._figure("the audit", f"{report['accounts']} accounts, {report['entries']} journal entries: {verdict}"),
        )
        if own != charged or report["broken"]:
            raise Unexpected("the books do not balance")
        await self._pause(2)

    def _figure(self, name: str, figure: str) -> str:
        return f"  {name:<22}{self._screen.paint(figure, BOLD)}"

    # --- drawing -----------------------------------------------------------------------------------------------------------------

    def _bars(self, people: Sequence[Person]) -> AbstractAsyncContextManager[None]:
        async def refresh() -> None:
            await asyncio.gather(*(person.refresh() for person in people))

        return self._screen.moving(lambda: self._bar_lines(people), refresh=refresh)

    def _bar_lines(self, people: Sequence[Person]) -> list[str]:
        screen = self._screen
        spent, held = screen.paint(screen.letter("█"), GREEN), screen.paint(screen.letter("▒"), YELLOW)
        legend = f"{spent} spent  {held} held  {screen.letter('·')} left"
        lines = [f"{'':20}{legend}"]
        for person in people:
            whole = person.limit + person.granted or Decimal(1)
            parts = [(float(person.spent / whole), "█", GREEN), (float(person.held / whole), "▒", YELLOW)]
            bar = screen.bar(parts, cells=max(BAR_CELLS_MIN, screen.width - COLUMNS_BESIDE_BAR))
            lines.append(f"{'  ' * person.depth + person.id:<20}{bar} {person.spent:7.4f} of {whole:<6f} {self._note(person)}")
        return lines

    def _note(self, person: Person) -> str:
        if person.running:
            return self._screen.paint(f"{person.words} words", CYAN)
        return self._screen.paint(person.stopped, RED)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._pace)
