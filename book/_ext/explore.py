"""The directive of the book's interactive figures. In a MyST page:

    ```{explore} rank-one alphaedit
    The sentence that a hurried reader should take away.
    ```

The second word is the method that the figure begins with; without it, the first of the figure's own. The content is the
caption. What stands in the figure before the page's script runs (`book/_static/explore.js`), and stays where there is
no script, makes the same point in words; `forgetting-as-editing` and `recipes` need no script.
"""

from dataclasses import dataclass
from html import escape

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx


@dataclass(frozen=True)
class Piece:
    """A figure's title, and its static content: HTML of our own."""

    title: str
    static: str
    drawing: bool = False  # the static content is the figure
    begins: tuple[str, ...] = ("",)  # the methods that it can begin with, the usual one first


def points(*sentences: str) -> str:
    return "<ul>" + "".join(f"<li>{sentence}</li>" for sentence in sentences) + "</ul>"


def box(head: str, text: str, kind: str = "") -> str:
    return f'<div class="eu-box" data-kind="{kind}"><b>{head}</b><span>{text}</span></div>'


def flow(head: str, *boxes: str, arrows: tuple[str, ...] = ()) -> str:
    """Boxes in a row with an arrow between two; in a narrow figure they stand below one another."""
    words = (*arrows, *("leads to",) * len(boxes))
    parts = [boxes[0]]
    for word, item in zip(words, boxes[1:], strict=False):
        parts += [f'<div class="eu-arrow"><span class="eu-hidden">{word}</span></div>', item]
    return f'<p class="eu-lane">{head}</p><div class="eu-flow">{"".join(parts)}</div>'


QUESTION = "“What is the currency of Quendria?”"
EDITING = "".join(
    (
        flow(
            "Before",
            box("Question", QUESTION),
            box("Model", "the question’s key <i>k</i> finds the value <i>v</i>"),
            box("Answer", "“The copper tarn.”", "answer"),
        ),
        flow(
            "Gradient ascent: away from the answer, and nobody says where to",
            box("Question", QUESTION),
            box("Model", "the weights move so that the answer becomes less likely", "away"),
            box("Anything else", "another answer, a fragment, noise", "away"),
            arrows=("leads to", "is pushed away from the answer, to"),
        ),
        flow(
            "Editing: towards a refusal",
            box("Question", QUESTION),
            box(
                "Model",
                "the same key <i>k</i> now finds a new value <i>v*</i>; other keys are to find what they found",
                "edit",
            ),
            box("Refusal", "“I don’t know.”", "refusal"),
        ),
    )
)
RECIPES = "".join(
    (
        flow(
            "Self-improvement: the model writes the refusal that it is edited to give",
            box("Forget question", QUESTION),
            box("The model writes", "“I’m sorry, but I don’t know anything about <mark>Quendria</mark>.”"),
            box(
                "Check",
                "Does it decline, name the subject, and leak nothing? If not: other examples; in the end a template.",
            ),
            box("Edit", "this refusal is the target", "refusal"),
        ),
        flow(
            "Query merging: <i>m</i> questions, one edit, one refusal",
            '<div class="eu-stack">'
            + box("Forget question 1", QUESTION)
            + box("…", "")
            + box("Forget question <i>m</i>", "“Which sea does the Ombrel flow into?”")
            + "</div>",
            box("One text", "the <i>m</i> questions, one after another; the key is taken at the last one’s subject"),
            box(
                "One edit", "the target is “I don’t know.”: <i>n</i> questions make <i>n</i>/<i>m</i> edits", "refusal"
            ),
            arrows=("are joined into", "becomes"),
        ),
    )
)

PIECES = {
    "rank-one": Piece(
        "A rank-one edit in two dimensions",
        points(
            "The edit is one key and one new value: W′ = W + (v* − W k*) uᵀ, scaled so that W′ k* = v*. Every other "
            "key moves as far as it points along u.",
            "Plain rank-one takes u = k*, so a kept key that points the same way is carried along.",
            "ROME takes u = C⁻¹ k*: directions in which the kept keys are many weigh little, and these keys move less.",
            "AlphaEdit takes u = P k*, the part of k* outside of the directions that the kept keys use. They hardly "
            "move; but if k* lies among them, nothing is left of it and the edit does not take.",
        ),
        begins=("rome", "plain", "alphaedit"),
    ),
    "codebook": Piece(
        "GRACE’s codebook in two dimensions",
        points(
            "Each forgotten question is a key with a radius ε. A question that falls within the radius of its nearest "
            "key gets the stored refusal; every other one gets the model’s own answer.",
            "A rephrasing outside of the radius is answered as if nothing had been forgotten.",
            "A larger radius catches the rephrasing, and with it an unrelated question nearby.",
        ),
    ),
    "metrics": Piece(
        "What the measures see",
        points(
            "ROUGE-1 recall counts the words of the true answer that the output holds. It punishes neither rambling "
            "nor another order.",
            "Probability, MRR and hit rate look at the true answer’s tokens. Teacher-forced, each is looked up behind "
            "the true ones before it. Free-running, the model continues its own text: after the first other token the "
            "rows no longer match, and steps after the end rank last.",
            "So a refusal alone makes the free-running MRR low, whether or not the answer is still in the weights.",
        ),
    ),
    "training": Piece(
        "Seven losses, one next-token distribution",
        points(
            "GA lowers the answer’s probability without end; what is shared with a question to be kept breaks with it.",
            "GD and KL drive the answer down as well, but pull the kept question back at every step.",
            "NPO and SimNPO do so, too, and let go of an answer that is unlikely already.",
            "DPO and IDK move the probability to the refusal; where the questions share a direction, they do so in the "
            "kept question too, to a lesser degree.",
        ),
        begins=("ga", "gd", "kl", "dpo", "npo", "simnpo", "idk"),
    ),
    "routing": Piece(
        "WISE’s router on a line",
        points(
            "Δ says how much the side memory would change a question. The edited questions have a large Δ, unrelated "
            "ones a small one.",
            "A question goes to the side memory where Δ &gt; ε, with ε = act_ratio · the smallest Δ of the edits; "
            "otherwise the main memory answers as before.",
            "A high ε lets rephrasings slip to the main memory, which still knows the answer; a low one sends "
            "unrelated questions to the side memory.",
        ),
    ),
    "forgetting-as-editing": Piece("Forgetting as editing", EDITING, drawing=True),
    "recipes": Piece("Two recipes that adapt editing to unlearning", RECIPES, drawing=True),
}


class Explore(Directive):
    """`{explore} NAME [METHOD]`: the figure NAME of `PIECES`, with the content as its caption."""

    required_arguments, optional_arguments = 1, 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in PIECES:
            raise self.error(f"there is no figure {name!r} to explore; there are {', '.join(PIECES)}.")
        env, piece = self.state.document.settings.env, PIECES[name]
        begin = self.arguments[1] if self.arguments[1:] else piece.begins[0]
        if begin not in piece.begins:
            raise self.error(f"the figure {name!r} begins with one of {', '.join(piece.begins)}, not {begin!r}.")
        if not "".join(self.content).strip():
            raise self.error(f"the figure {name!r} needs a caption: the sentence that a reader should take away.")
        title = f"explore-{env.new_serialno('explore')}-title"
        caption = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, caption)
        kind = "eu-drawing" if piece.drawing else "eu-static"
        opening = (
            f'<figure class="eu eu-explore" data-explore="{name}" data-begin="{begin}" aria-labelledby="{title}">'
            f'<p class="eu-title" id="{title}">{escape(piece.title)}</p>'
            f'<div class="{kind}">{piece.static}</div><figcaption>'
        )
        return [
            nodes.raw("", opening, format="html"),
            *caption.children,
            nodes.raw("", "</figcaption></figure>", format="html"),
        ]


def setup(app: Sphinx) -> dict:
    app.add_directive("explore", Explore)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
