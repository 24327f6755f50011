"""The numbers of the paper ("Editing as Unlearning", Tables 1-7), from one file of data.

Transcribed twice, by hand and by program, and compared value by value: the two agree in all 1,113 values.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

DATA = Path(__file__).parent / "data"


def paper_tables() -> pd.DataFrame:
    """One row per printed value, in reading order.

    Columns: ``table`` (``table1`` … ``table7``), ``dataset`` (``factual``, ``pistol``), ``model`` (``Llama2-7B``,
    ``Mistral-7B``, ``Llama3.1-8B``), ``method``, ``n_forget``, ``merge`` (1 = unmerged), ``stage`` (``vanilla``,
    ``self-improved``), ``set`` (``forget``, ``retain``, ``rephrased``, ``factual``), ``metric`` (``rouge1_recall``,
    ``probability``, ``mrr``, ``hit_rate``), ``value`` (a fraction from 0 to 1) and ``note`` (one misprint, else empty).
    The first nine columns are a key. What the paper prints as a dash (MEMIT on Mistral) has no row; the brackets of
    Table 2 (rephrased minus forget) are left out. ``probability`` is the paper's column "Prob.", whatever it measures.
    """
    return pd.read_csv(DATA / "paper_tables.csv", dtype={"note": "str"}).fillna({"note": ""})


def paper_text() -> pd.DataFrame:
    """Results that stand in the paper's text only; ``note`` quotes them or says what is odd about them.

    Columns: ``what``, ``dataset``, ``model``, ``method`` (empty before unlearning), ``n_forget``, ``merge`` (missing
    before unlearning), ``metric`` (``rouge1_recall``, or ``score`` = 1 - ROUGE-1(forget) + ROUGE-1(retain)), ``value``,
    ``note``.
    """
    types = {"method": "str", "n_forget": "Int64", "merge": "Int64"}
    return pd.read_csv(DATA / "paper_text.csv", dtype=types).fillna({"method": "", "note": ""})
