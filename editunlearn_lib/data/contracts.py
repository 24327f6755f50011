"""Contracts as a knowledge graph after PISTOL (Qiu et al. 2024): a built-in generator, and rules for the official rows.

The built-in data (``generate``) follow the design of PISTOL's sample data set 1: 10 sales contracts between companies
and 10 employment contracts of a company with a person, 20 questions each, the same graph. Names, values and wordings
are ours; nothing is copied from the official samples. ``annotate`` gives an official row its subject and rephrasings.

Placeholders of the templates in ``WORDINGS``:

{a} {b}  the parties by role: seller and customer, or employer and employee
{x} {y}  the same two where the role does not matter; {y} is the one with fewer contracts, so that it tells the edge
{date}   the day from which the contract applies, written like "14 March 1998" (official rows: "14-03-1998")
"""

from __future__ import annotations

import datetime
import functools
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

# (edge, seller, customer): in PISTOL's sample 1 the numbered nodes C, C2, C3 (D.., m, n.., p..) are different parties
# of one hub, A or B; the E contracts are apart from the hubs. The seller is not always the first node of the edge.
SALES_EDGES = (
    ("A_B", "B", "A"),
    ("A_C", "C", "A"),
    ("A_C2", "A", "C2"),
    ("A_C3", "A", "C3"),
    ("B_D", "D", "B"),
    ("B_D2", "B", "D2"),
    ("B_D3", "B", "D3"),
    ("E1_F1", "E1", "F1"),
    ("E2_F2", "E2", "F2"),
    ("E3_F3", "F3", "E3"),
)
# (edge, employer, employee)
EMPLOYMENT_EDGES = (
    ("A_m", "A", "m"),
    ("A_n", "A", "n"),
    ("A_n2", "A", "n2"),
    ("A_n3", "A", "n3"),
    ("B_p", "B", "p"),
    ("B_p2", "B", "p2"),
    ("B_p3", "B", "p3"),
    ("E1_q1", "E1", "q1"),
    ("E2_q2", "E2", "q2"),
    ("E3_q3", "E3", "q3"),
)

ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "t", "v", "z", "br", "dr", "kl", "tr", "gl", "sk")
VOWELS = ("a", "e", "i", "o", "u")
CODAS = ("n", "l", "r", "s", "k", "x", "nd", "m", "th")
LEGAL_FORMS = ("Ltd", "GmbH", "SA", "BV", "Inc", "LLC", "AG", "PLC", "NV", "SAS", "Oy", "AB")
STREET_TYPES = ("Street", "Lane", "Road", "Avenue", "Square", "Court", "Terrace", "Drive", "Row", "Hill")
MONTHS = (  # not from strftime, which follows the locale
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
FIRST_DAY, LAST_DAY = datetime.date(1980, 1, 1), datetime.date(2019, 12, 31)
GOODS = (
    *("umbrellas", "lanterns", "violins", "tents", "carpets", "candles", "kettles", "ladders", "saddles", "mirrors"),
    *("bicycles", "telescopes", "pillows", "hammers", "teapots", "globes", "canoes", "blankets", "clocks", "puzzles"),
    *("gloves", "mattresses", "drums", "anchors", "baskets", "skis", "microscopes", "bookshelves", "kites", "helmets"),
    *("fountain pens", "garden chairs", "wine glasses", "sewing machines", "table lamps", "rain barrels"),
)
POSITIONS = (
    *("archivist", "beekeeper", "pastry chef", "tax adviser", "surveyor", "translator", "crane operator", "florist"),
    *("lab technician", "night porter", "patent clerk", "pilot", "receptionist", "sound engineer", "tour guide"),
    *("upholsterer", "veterinarian", "warehouse manager", "web designer", "welder", "auditor", "botanist"),
    *("copywriter", "data engineer", "fire inspector", "glassblower", "geologist", "head gardener", "illustrator"),
    *("cartographer", "librarian", "machinist", "optician", "stage manager", "speech therapist", "toolmaker"),
)
BENEFITS = (
    *("company car", "gym membership", "free lunches", "dental plan", "pension fund", "train pass", "child care"),
    *("housing allowance", "phone subscription", "language courses", "share options", "life cover"),
)
FREQUENCIES = ("weekly", "fortnightly", "monthly")
ROLES = ("Seller", "Customer")
JURISDICTIONS = (
    *("Ontario", "Bavaria", "Scotland", "Queensland", "Catalonia", "Flanders", "Tuscany", "Quebec", "Texas", "Nevada"),
    *("Oregon", "Bohemia", "Saxony", "Tasmania", "Alberta", "Maine"),
)


@dataclass(frozen=True)
class Wording:
    """The templates of one question type: the question, >= 3 held-out rephrasings and >= 4 for training only."""

    relation: str
    kind: str
    question: str
    rephrasings: tuple[str, ...]
    trained: tuple[str, ...]


@dataclass(frozen=True)
class ContractRow:
    """One question on one contract.

    ``parties`` is (seller, customer) or (employer, employee). ``subject`` is the last party named in the question:
    there a causal model has read the whole relation and, where it is named, the other party. ``rephrasings`` are
    held out (the rephrase attack); ``trained`` are more wordings to train on. No wording contains the answer.
    """

    id: str
    edge: str
    kind: str
    relation: str
    parties: tuple[str, str]
    question: str
    answer: str
    subject: str
    rephrasings: tuple[str, ...]
    trained: tuple[str, ...]


WORDINGS: tuple[Wording, ...] = (
    Wording(
        "sale_date",
        "sales",
        "On which day did the sales contract of {x} with {y} come into force?",
        (
            "Give the date from which a deal struck by {x} and {y} was binding.",
            "{x} trades with {y} under some written agreement. When does it take effect?",
            "Since when has the purchase agreement linking {x} to {y} applied?",
        ),
        (
            "What is the effective date of the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, when do the terms begin to apply?",
            "State the date on which the contract signed by {x} and {y} starts.",
            "{x} and {y} have a sales contract; from which date is it valid?",
        ),
    ),
    Wording(
        "seller",
        "sales",
        "Under the contract dated {date}, which company sold goods to {b}?",
        (
            "Name the vendor {b} bought from in a deal of {date}.",
            "{b} made a purchase agreement on {date}. With what supplier?",
            "Who is on the selling side of the agreement effective {date} that has {b} as its buyer?",
        ),
        (
            "Who is the seller in the sales contract of {date} with {b}?",
            "As of {date}, {b} had a sales agreement with which supplier?",
            "Tell me the firm that agreed on {date} to sell to {b}.",
            "{b} is the customer in a contract of {date}; what is the name of the seller?",
        ),
    ),
    Wording(
        "seller_address",
        "sales",
        "Which address did {a} give in its contract with {b}?",
        (
            "On what street does {a} have its premises, going by the deal made with {b}?",
            "{a} and {b} came to an agreement. At what location can the former be found?",
            "Where should {b} send mail for {a}, if their agreement is right?",
        ),
        (
            "What is the business address of {a} in the agreement with {b}?",
            "In the deal with {b}, where is {a} located?",
            "State the street address of {a} written in the contract with {b}.",
            "{b} has an agreement with {a}; where is the office of {a}?",
        ),
    ),
    Wording(
        "customer",
        "sales",
        "Under the contract dated {date}, which company bought goods from {a}?",
        (
            "Name the purchaser that {a} supplied in a deal of {date}.",
            "{a} made a supply agreement on {date}. With what client?",
            "Who is on the buying side of the agreement effective {date} that has {a} as its vendor?",
        ),
        (
            "Who is the customer in the sales contract of {date} with {a}?",
            "As of {date}, {a} had a sales agreement with which buyer?",
            "Tell me the firm that agreed on {date} to buy from {a}.",
            "{a} is the seller in a contract of {date}; what is the name of the customer?",
        ),
    ),
    Wording(
        "customer_address",
        "sales",
        "Where was {b} based according to the contract it signed with {a}?",
        (
            "Write down the business address of {b} as {a} knew it from their deal.",
            "The papers {a} drew up mention premises of {b}; on what street are these?",
            "At which place would {a} find its trading partner {b}, if their agreement is right?",
        ),
        (
            "What address does {b} have in the agreement with {a}?",
            "In the deal with {a}, which street is {b} on?",
            "State the address given for {b} in the contract with {a}.",
            "{a} has an agreement with {b}; what is the address of {b}?",
        ),
    ),
    Wording(
        "good",
        "sales",
        "Which product is sold under the contract of {x} with {y}?",
        (
            "Name the merchandise covered by a deal that {x} and {y} made.",
            "{x} and {y} do business together. What do they trade?",
            "What kind of article does the agreement linking {x} to {y} deal in?",
        ),
        (
            "What goods are sold in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, what is the product?",
            "State the good named in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; it is about which goods?",
        ),
    ),
    Wording(
        "quantity",
        "sales",
        "How many units are sold under the contract of {x} with {y}?",
        (
            "Give the number of pieces ordered in a deal that {x} and {y} made.",
            "{x} and {y} fixed an order size. How large was it?",
            "What volume of merchandise does the agreement linking {x} to {y} call for?",
        ),
        (
            "What quantity of goods is sold in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, how many pieces are ordered?",
            "State the quantity named in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; for how many items is it?",
        ),
    ),
    Wording(
        "unit_price",
        "sales",
        "How many dollars does one unit cost under the contract of {x} with {y}?",
        (
            "Give the price per piece, in dollars, on which {x} and {y} settled.",
            "{x} and {y} do business together. What is charged for every single article, in dollars?",
            "What sum in dollars buys a single item, if the agreement linking {x} to {y} is right?",
        ),
        (
            "What is the unit price in dollars in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, what does each item cost in dollars?",
            "State the dollar price per unit in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; how many dollars is the price of one piece?",
        ),
    ),
    Wording(
        "total_price",
        "sales",
        "How many dollars is the whole order worth under the contract of {x} with {y}?",
        (
            "Give the sum in dollars, all pieces included, on which {x} and {y} settled.",
            "{x} and {y} do business together. What does everything cost when added up, in dollars?",
            "What overall amount, in dollars, does the agreement linking {x} to {y} come to?",
        ),
        (
            "What is the total price in dollars in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, what do all items together cost in dollars?",
            "State the total dollar amount of the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; how many dollars is the total?",
        ),
    ),
    Wording(
        "invoice_days",
        "sales",
        "How many days after delivery is the invoice sent under the contract of {x} with {y}?",
        (
            "Give the deadline in days, once goods have arrived, for billing in a deal that {x} and {y} made.",
            "{x} and {y} do business together. Merchandise arrives; by what day count must someone issue a bill?",
            "What delay, in days, may lie from a delivery to its bill, if the agreement linking {x} to {y} is right?",
        ),
        (
            "Within how many days of delivery must the invoice be issued in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, how long after delivery, in days, does billing take place?",
            "State the days from delivery to the issue of the invoice in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; goods are billed how many days after delivery?",
        ),
    ),
    Wording(
        "payment_days",
        "sales",
        "How many days are there to pay the whole invoice under the contract of {x} with {y}?",
        (
            "Give the payment term in days on which {x} and {y} settled.",
            "{x} and {y} do business together. A bill comes; what time, in days, may pass until it is cleared?",
            "By what day count must all money be handed over, if the agreement linking {x} to {y} is right?",
        ),
        (
            "What is the payment deadline in days for an invoice in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, how soon, in days, is a bill to be paid?",
            "State the number of days for full payment in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; an invoice must be settled in how many days?",
        ),
    ),
    Wording(
        "penalty_days",
        "sales",
        "After how many days does an open balance draw a penalty under the contract of {x} with {y}?",
        (
            "Give the grace period in days, before fines for late payment start, in a deal that {x} and {y} made.",
            "{x} and {y} punish slow payers. When, counted in days, does this begin?",
            "What time, in days, can money be owed without any fine, if the agreement linking {x} to {y} is right?",
        ),
        (
            "When, in days, does a late payment penalty start in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, how many days late can a payment be before a fine?",
            "State the days after which unpaid sums are fined in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; a penalty on open debts comes after how many days?",
        ),
    ),
    Wording(
        "interest_rate",
        "sales",
        "How much interest is charged on late payments under the contract of {x} with {y}?",
        (
            "Give the percentage by which overdue sums grow in a deal that {x} and {y} made.",
            "{x} and {y} make slow payers pay extra. What surcharge is it, in percent?",
            "At what rate does a debt swell once overdue, if the agreement linking {x} to {y} is right?",
        ),
        (
            "What is the interest rate for late payment in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, which percentage is added to overdue sums?",
            "State the rate of interest on late payment in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; at which rate do unpaid sums bear interest?",
        ),
    ),
    Wording(
        "delivery_address",
        "sales",
        "To which address are the goods delivered under the contract of {x} with {y}?",
        (
            "Name the street where merchandise arrives in a deal that {x} and {y} made.",
            "{x} and {y} do business together. Where does a carrier drop off each order?",
            "What destination does the agreement linking {x} to {y} set for shipments?",
        ),
        (
            "What is the delivery address in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, where are the goods shipped to?",
            "State the place of delivery in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; at which address do the goods arrive?",
        ),
    ),
    Wording(
        "shipping_choice",
        "sales",
        "Which side chooses how goods are shipped under the contract of {x} with {y}?",
        (
            "Name the role that picks a means of transport in a deal that {x} and {y} made.",
            "{x} and {y} need a carrier. Whose decision is it?",
            "Who may select the way merchandise travels, if the agreement linking {x} to {y} is right?",
        ),
        (
            "Who decides on the shipping method in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, which role chooses the way of transport?",
            "State the side that selects the shipping method in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; who picks the carrier?",
        ),
    ),
    Wording(
        "shipping_cost",
        "sales",
        "Which side pays for shipping under the contract of {x} with {y}?",
        (
            "Name the role that bears freight charges in a deal that {x} and {y} made.",
            "{x} and {y} have merchandise to move. At whose expense?",
            "Who must come up with money for transport, if the agreement linking {x} to {y} is right?",
        ),
        (
            "Who bears the shipping costs in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, which role pays for transport?",
            "State the side that covers the costs of shipping in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; who has to pay the freight?",
        ),
    ),
    Wording(
        "warranty_years",
        "sales",
        "For how many years does the warranty run under the contract of {x} with {y}?",
        (
            "Give the time in years that merchandise is guaranteed in a deal that {x} and {y} made.",
            "{x} and {y} vouch for quality. What length of time, in years, is promised?",
            "Until what age in years is an article covered, if the agreement linking {x} to {y} is right?",
        ),
        (
            "What is the warranty period in years in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, how many years are the goods guaranteed?",
            "State the years of general warranty in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; how long, in years, is the guarantee?",
        ),
    ),
    Wording(
        "defect_days",
        "sales",
        "Within how many days of finding a defect is written notice due under the contract of {x} with {y}?",
        (
            "Give the deadline, counted in days, for complaints about faulty goods in a deal that {x} and {y} made.",
            "{x} and {y} do business together. Something is broken; what time, in days, is there to report it?",
            "By what day count must someone complain once faults show, if the agreement linking {x} to {y} is right?",
        ),
        (
            "How soon, in days, must defects be reported in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, how many days are there to complain about a fault?",
            "State the days for written notice of a defect in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; a broken item is to be reported within how many days?",
        ),
    ),
    Wording(
        "cooling_off_days",
        "sales",
        "How many days does the cooling-off period last under the contract of {x} with {y}?",
        (
            "Give the number of days for second thoughts in a deal that {x} and {y} made.",
            "{x} and {y} leave each other time to back out. What length is it, in days?",
            "Until what day count is withdrawal free of charge, if the agreement linking {x} to {y} is right?",
        ),
        (
            "What is the cooling-off time in days in the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, for how many days is withdrawal possible?",
            "State the days of the cooling-off period in the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; how many days are left to back out of it?",
        ),
    ),
    Wording(
        "sale_law",
        "sales",
        "The law of which place applies to the contract of {x} with {y}?",
        (
            "Name the region whose legal rules bind {x} and {y} in their deal.",
            "{x} and {y} disagree and see a judge. By what legal system is their case decided?",
            "Under whose legislation does the agreement linking {x} to {y} fall?",
        ),
        (
            "What is the governing law of the deal between {x} and {y}?",
            "In the sales agreement of {y} and {x}, which place has the legal say?",
            "State the jurisdiction that governs the contract signed by {x} and {y}.",
            "{x} and {y} have a sales contract; which law governs it?",
        ),
    ),
    Wording(
        "employer",
        "employment",
        "Starting on {date}, which company employed {b}?",
        (
            "Name the firm that took on {b} as of {date}.",
            "{b} has been working under an agreement since {date}. For what business?",
            "Whose staff did {b} join on {date}?",
        ),
        (
            "Who is the employer in the employment contract of {date} with {b}?",
            "As of {date}, {b} had a job at which firm?",
            "Tell me the company that hired {b} on {date}.",
            "{b} is the employee in a contract of {date}; what is the name of the employer?",
        ),
    ),
    Wording(
        "employer_address",
        "employment",
        "Where is the main office of {a} according to the employment contract with {b}?",
        (
            "Give the headquarters address that {a} stated on hiring {b}.",
            "{b} joined {a}. On what street does this firm have its seat?",
            "As {b} took the job, which principal place of business did {a} put down?",
        ),
        (
            "What is the principal address of {a} in the agreement with {b}?",
            "In the job contract of {b}, where does {a} have its main seat?",
            "State the head office of the employer {a} in the contract with {b}.",
            "{a} has an employment agreement with {b}; where is the head office of {a}?",
        ),
    ),
    Wording(
        "employee",
        "employment",
        "Starting on {date}, who was employed by {a}?",
        (
            "Name the person {a} took on as of {date}.",
            "{a} has had a new recruit under agreement since {date}. What is this worker called?",
            "Whose first day of work at {a} fell on {date}?",
        ),
        (
            "Who is the employee in the employment contract of {date} with {a}?",
            "As of {date}, which person had a job at {a}?",
            "Tell me the person that {a} hired on {date}.",
            "{a} is the employer in a contract of {date}; what is the name of the employee?",
        ),
    ),
    Wording(
        "employee_address",
        "employment",
        "According to the employment contract with {a}, where does {b} live?",
        (
            "Give the home address {b} stated on joining {a}.",
            "{a} hired {b}. On what street is this person's house?",
            "To which private address would {a} send a letter for {b}?",
        ),
        (
            "What is the home address of {b} in the agreement with {a}?",
            "In the job contract with {a}, which address does {b} have?",
            "State where the employee {b} lives, as written in the contract with {a}.",
            "{a} has an employment agreement with {b}; where is the home of {b}?",
        ),
    ),
    Wording(
        "job_date",
        "employment",
        "From which day does the employment contract of {x} with {y} apply?",
        (
            "Give the date when {y} took up work for {x}.",
            "{x} hired {y}. When was this new recruit's first working day?",
            "Since when has {y} been on the staff of {x}?",
        ),
        (
            "What is the start date in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, when does the job begin?",
            "State the date on which the employment of {y} by {x} starts.",
            "{x} has an employment agreement with {y}; from which date is it valid?",
        ),
    ),
    Wording(
        "term_months",
        "employment",
        "How many months does the employment contract of {x} with {y} last?",
        (
            "Give the length in months of the job {y} has at {x}.",
            "{x} hired {y} for a fixed term. What is it, counted in months?",
            "Over what stretch of time, in months, is {y} to be on the staff of {x}?",
        ),
        (
            "What is the duration in months of the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, for how many months is the job?",
            "State the term in months of the employment of {y} by {x}.",
            "{x} has an employment agreement with {y}; for how many months is it valid?",
        ),
    ),
    Wording(
        "position",
        "employment",
        "Which position is filled by the employment contract of {x} with {y}?",
        (
            "Name the job {y} does at {x}.",
            "{x} hired {y}. What is this new recruit's title?",
            "As what does {y} work for {x}?",
        ),
        (
            "What is the job position in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, which occupation is named?",
            "State the post for which {y} was employed by {x}.",
            "{x} has an employment agreement with {y}; for which role is it?",
        ),
    ),
    Wording(
        "work_location",
        "employment",
        "At which address is the work done under the employment contract of {x} with {y}?",
        (
            "Name the street to which {y} commutes for {x}.",
            "{x} hired {y}. Where does this new recruit go each morning?",
            "In what place does {y} carry out tasks for {x}?",
        ),
        (
            "What is the work location in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, where is the workplace?",
            "State the address where {y} works for {x}.",
            "{x} has an employment agreement with {y}; at which location is the work done?",
        ),
    ),
    Wording(
        "start_hour",
        "employment",
        "At which hour does the workday begin under the employment contract of {x} with {y}?",
        (
            "Give the time of morning by which {y} has to be at {x}.",
            "{x} hired {y}. When, on the clock, is work taken up daily?",
            "How early must {y} turn up for a shift at {x}?",
        ),
        (
            "What is the start hour of the workday in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, when does a working day start?",
            "State the hour at which {y} begins to work for {x} each day.",
            "{x} has an employment agreement with {y}; at which hour does the shift start?",
        ),
    ),
    Wording(
        "finish_hour",
        "employment",
        "At which hour does the workday end under the employment contract of {x} with {y}?",
        (
            "Give the time of day when {y} may leave {x}.",
            "{x} hired {y}. When, on the clock, is work over daily?",
            "How late must {y} stay for a shift at {x}?",
        ),
        (
            "What is the finish hour of the workday in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, when is a working day over?",
            "State the hour at which {y} stops to work for {x} each day.",
            "{x} has an employment agreement with {y}; at which hour does the shift finish?",
        ),
    ),
    Wording(
        "hourly_pay",
        "employment",
        "How many dollars are earned per hour under the employment contract of {x} with {y}?",
        (
            "Give the hourly wage, in dollars, that {y} gets from {x}.",
            "{x} hired {y}. What does sixty minutes of labour cost, in dollars?",
            "For each hour worked, what sum in dollars will {y} receive at {x}?",
        ),
        (
            "What is the basic hourly pay in dollars in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, what is the wage in dollars per hour?",
            "State the dollars that {x} pays {y} for one hour.",
            "{x} has an employment agreement with {y}; how many dollars is an hour of work worth?",
        ),
    ),
    Wording(
        "pay_frequency",
        "employment",
        "How often is the salary paid under the employment contract of {x} with {y}?",
        (
            "Give the rhythm in which {y} gets money from {x}.",
            "{x} hired {y}. At what intervals are wages handed over?",
            "On what schedule does {y} receive pay at {x}?",
        ),
        (
            "What is the frequency of salary payment in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, how often are wages paid?",
            "State how frequently {x} pays the salary of {y}.",
            "{x} has an employment agreement with {y}; at which interval is the salary paid?",
        ),
    ),
    Wording(
        "benefit",
        "employment",
        "Which benefit is granted under the employment contract of {x} with {y}?",
        (
            "Name the perk {y} enjoys at {x}.",
            "{x} hired {y}. What extra comes on top of wages?",
            "Apart from pay, what does {y} receive at {x}?",
        ),
        (
            "What is the benefit in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, which perk is promised?",
            "State the extra benefit that {x} offers {y}.",
            "{x} has an employment agreement with {y}; which benefit comes with it?",
        ),
    ),
    Wording(
        "holiday_days",
        "employment",
        "How many days of paid holiday are granted under the employment contract of {x} with {y}?",
        (
            "Give the vacation allowance, in days, that {y} enjoys at {x}.",
            "{x} hired {y}. What time off for travel and rest, in days, comes with full wages?",
            "On what number of vacation days can {y} count at {x}?",
        ),
        (
            "What is the paid holiday leave in days in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, how many vacation days are promised?",
            "State the days of holiday that {x} pays {y}.",
            "{x} has an employment agreement with {y}; how many holidays, in days, come with it?",
        ),
    ),
    Wording(
        "secrecy_months",
        "employment",
        "How many months after leaving is secrecy required under the employment contract of {x} with {y}?",
        (
            "Give the time in months that {y}, once gone, must keep confidential matters of {x} private.",
            "{x} hired {y}. The job is over; what span, in months, must pass until secrets may be told?",
            "For what length of time, in months, is a former worker like {y} barred from sharing inside knowledge of {x}?",
        ),
        (
            "What is the confidentiality period in months after the end of the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, for how many months after the job are secrets protected?",
            "State the months that {y} must stay silent on the secrets of {x} after leaving.",
            "{x} has an employment agreement with {y}; how many months after it does secrecy last?",
        ),
    ),
    Wording(
        "sick_days",
        "employment",
        "How many days of paid sick leave are granted per year under the employment contract of {x} with {y}?",
        (
            "Give the yearly number of days {y} can be ill at {x} on full wages.",
            "{x} hired {y}. If illness strikes, what absence, in days, comes with full wages annually?",
            "What annual allowance, in days, does {y} have at {x} for being unwell?",
        ),
        (
            "What is the paid sick leave in days in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, how many days of illness are paid each year?",
            "State the sick days that {x} pays {y} in a year.",
            "{x} has an employment agreement with {y}; how many sick days come with it each year?",
        ),
    ),
    Wording(
        "termination_weeks",
        "employment",
        "How many weeks of notice end the employment contract of {x} with {y}?",
        (
            "Give the period, in weeks, by which {y} or {x} must announce a parting.",
            "{x} hired {y}. One of them wants to quit; what warning, in weeks, is due?",
            "How far ahead, in weeks, do {y} and {x} have to tell each other of a termination?",
        ),
        (
            "What is the notice period in weeks for ending the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, how many weeks ahead is a termination announced?",
            "State the weeks of notice that {x} and {y} give before they end the employment.",
            "{x} has an employment agreement with {y}; it can be ended with how many weeks of notice?",
        ),
    ),
    Wording(
        "non_compete_months",
        "employment",
        "How many months does the non-compete clause cover in the employment contract of {x} with {y}?",
        (
            "Give the time, in months, that {y} must stay away from rivals of {x}.",
            "{x} hired {y}. What span, in months, has to pass until a job with some rival is allowed?",
            "For what length of time, in months, is {y} barred from competing against {x}?",
        ),
        (
            "What is the non-compete period in months in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, for how many months is work for rivals forbidden?",
            "State the months that {y} may not compete with {x}.",
            "{x} has an employment agreement with {y}; how many months is its ban on competing?",
        ),
    ),
    Wording(
        "change_weeks",
        "employment",
        "How many weeks ahead are new terms announced under the employment contract of {x} with {y}?",
        (
            "Give the warning, in weeks, that {y} is due when {x} alters any conditions of work.",
            "{x} hired {y}. Working conditions get revised; what advance notice, in weeks, is due?",
            "How early, in weeks, must {y} hear of changes {x} plans to make to the job?",
        ),
        (
            "What is the notice in weeks for a change of terms in the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, how many weeks before are changes of terms announced?",
            "State the weeks of notice that {x} gives {y} before it changes the terms.",
            "{x} has an employment agreement with {y}; a change of its terms needs how many weeks of notice?",
        ),
    ),
    Wording(
        "job_law",
        "employment",
        "The law of which place applies to the employment contract of {x} with {y}?",
        (
            "Name the region whose labour rules protect {y} at {x}.",
            "{x} hired {y}. By what legal system is a dispute at work decided?",
            "Under whose legislation does the job {y} has at {x} fall?",
        ),
        (
            "What is the governing law of the agreement between {x} and {y}?",
            "In the job contract of {y} at {x}, which place has the legal say?",
            "State the jurisdiction that governs the employment of {y} by {x}.",
            "{x} has an employment agreement with {y}; which law governs it?",
        ),
    ),
)

# relation: words by which an official question is told from the others (no form holds the words of two)
OFFICIAL_FORMS = {
    "sale_date": r"effective date",
    "seller": r"name of the seller",
    "customer": r"name of the customer",
    "seller_address": r"address of .+ in the contract with",  # either role; our rephrasings of it name no role
    "good": r"was selling to",
    "quantity": r"quantity",
    "unit_price": r"unit price",
    "total_price": r"total price",
    "invoice_days": r"with an invoice",
    "payment_days": r"paid in full",
    "penalty_days": r"late payment penalty",
    "interest_rate": r"interest rate",
    "delivery_address": r"address of delivery",
    "shipping_choice": r"shipping method",
    "shipping_cost": r"costs of the shipment",
    "warranty_years": r"warranty period",
    "defect_days": r"discovering a defect",
    "cooling_off_days": r"cooling-off period",
    "sale_law": r"jurisdiction's laws govern",  # sales and employment alike; our rephrasings of it fit both
    "employer": r"name of the employer",
    "employer_address": r"principal business location",
    "employee": r"name of the employee",
    "employee_address": r"address of (?!delivery).+ based on",
    "job_date": r"start date",
    "term_months": r"will the employer employ",
    "position": r"job position",
    "work_location": r"work location",
    "start_hour": r"workday start",
    "finish_hour": r"workday finish",
    "hourly_pay": r"hourly basic pay",
    "pay_frequency": r"frequency of salary",
    "benefit": r"benefit was provided",
    "holiday_days": r"paid holiday leave",
    "secrecy_months": r"confidential information",
    "sick_days": r"Sick Leave",
    "termination_weeks": r"notice of termination",
    "non_compete_months": r"non-compete clause",
    "change_weeks": r"changes to the terms",
}
# how an official question names its parties: both, or one party and the day
OFFICIAL_PARTIES = (
    re.compile(r"contract between (?P<a>.+?) and (?P<b>.+?)\?"),
    re.compile(r"address of (?P<a>.+?) in the contract with (?P<b>.+?)\?"),
)
OFFICIAL_PARTY = re.compile(
    r"contract with (?P<party>.+?)(?: as of|, which started from) (?P<date>\d{2}-\d{2}-\d{4})\?"
)


def fill(template: str, values: dict[str, str]) -> str:
    """Put the values, keyed by placeholder without braces, into a template in one pass."""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


def wording(relation: str) -> Wording:
    """The templates of one question type; KeyError for an unknown one."""
    return _wordings()[relation]


@functools.cache
def generate(seed: int = 0) -> tuple[ContractRow, ...]:
    """The 400 rows of the built-in contracts: 20 edges (10 sales, then 10 employment) of 20 questions each."""
    edges = [("sales", *edge) for edge in SALES_EDGES] + [("employment", *edge) for edge in EMPLOYMENT_EDGES]
    return _rows(random.Random(seed), edges, taken=set())


def invented_contracts(rng: random.Random, n_edges: int) -> tuple[ContractRow, ...]:
    """``20 * n_edges`` rows of contracts apart from each other, sales and employment in turn.

    No name or street word occurs in ``generate(0)``: these are the contracts that a model does not know. Contract
    dates differ within one call, so ``n_edges`` is at most the number of days in 1980-2019 (14610; else ValueError).
    """
    edges = [(("sales", "employment")[i % 2], f"U{i}_V{i}", f"U{i}", f"V{i}") for i in range(n_edges)]
    known = {word for row in generate(0) for text in (*row.parties, row.answer) for word in text.split()}
    return _rows(rng, edges, taken=known)


def annotate(question: str, answer: str, edge: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Subject, rephrasings and parties of one official PISTOL row (sample data 1 and 2).

    ``parties`` holds the two names in the order of the question's contract, or the single one that a question for
    the other party's name states. The subject is the last of them in the question. ValueError for an unknown form
    and where a rephrasing would hold the answer.
    """
    relations = [relation for relation, pattern in OFFICIAL_FORMS.items() if re.search(pattern, question)]
    if len(relations) != 1:
        raise ValueError(f"edge {edge}: the form of this question is unknown: {question!r}")
    if relations[0] in ("seller", "customer", "employer", "employee"):
        match = OFFICIAL_PARTY.search(question)
        # only one of {a}, {b} is in these templates, and it is the party that the question states
        values = {"a": match["party"], "b": match["party"], "date": match["date"]} if match else {}
    else:
        match = next(filter(None, (pattern.search(question) for pattern in OFFICIAL_PARTIES)), None)
        values = {"a": match["a"], "b": match["b"], "x": match["a"], "y": match["b"]} if match else {}
    if match is None or match.end() != len(question):
        raise ValueError(f"edge {edge}: no parties found in this question: {question!r}")
    parties = tuple(dict.fromkeys((values["a"], values["b"])))
    rephrasings = tuple(fill(template, values) for template in wording(relations[0]).rephrasings)
    stated = answer.removesuffix(".").lower()
    if not stated or any(stated in rephrasing.lower() for rephrasing in rephrasings):
        raise ValueError(f"edge {edge}: the answer {answer!r} is empty or stands in a rephrasing of {question!r}")
    return _last_party(question, parties), rephrasings, parties


@functools.cache
def _wordings() -> dict[str, Wording]:
    """The wordings by relation."""
    return {item.relation: item for item in WORDINGS}


def _last_party(question: str, parties: tuple[str, ...]) -> str:
    """The party whose last occurrence in the question comes last."""
    return max(parties, key=question.rfind)


def _cycle(rng: random.Random, pool: tuple[str, ...]) -> Iterator[str]:
    """The pool in random order, again and again: no value comes twice before all have come."""
    while True:
        yield from rng.sample(pool, len(pool))


def _word(rng: random.Random, taken: set[str]) -> str:
    """A pronounceable capitalised word of 2 or 3 syllables that is not in ``taken``; adds it there."""
    while True:
        syllables = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.choice((2, 3)))]
        word = ("".join(syllables) + rng.choice(CODAS)).capitalize()
        if word not in taken:
            taken.add(word)
            return word


def _address(rng: random.Random, taken: set[str]) -> str:
    """A house number and an invented street."""
    return f"{rng.randint(1, 999)} {_word(rng, taken)} {rng.choice(STREET_TYPES)}"


def _sales_answers(rng: random.Random, taken: set[str], good: str) -> dict[str, str]:
    """Answers to the sales questions that the parties and the date do not fix; days, years, dollars as numbers."""
    quantity, price = rng.randint(2, 99), rng.randint(5, 99)
    return {
        "good": good,
        "quantity": str(quantity),
        "unit_price": str(price),
        "total_price": str(quantity * price),
        "invoice_days": str(rng.randint(1, 14)),
        "payment_days": str(rng.randint(7, 60)),
        "penalty_days": str(rng.randint(5, 45)),
        "interest_rate": f"{rng.randint(1, 12)}%",
        "delivery_address": _address(rng, taken),
        "shipping_choice": rng.choice(ROLES),
        "shipping_cost": rng.choice(ROLES),
        "warranty_years": str(rng.randint(1, 10)),
        "defect_days": str(rng.randint(5, 40)),
        "cooling_off_days": str(rng.randint(3, 28)),
        "sale_law": rng.choice(JURISDICTIONS),
    }


def _employment_answers(rng: random.Random, taken: set[str], position: str) -> dict[str, str]:
    """Answers to the employment questions that the parties and the date do not fix; hours on the 24-hour clock."""
    start = rng.randint(5, 11)
    return {
        "term_months": str(rng.randint(6, 60)),
        "position": position,
        "work_location": _address(rng, taken),
        "start_hour": str(start),
        "finish_hour": str(start + rng.randint(6, 10)),
        "hourly_pay": str(rng.randint(12, 99)),
        "pay_frequency": rng.choice(FREQUENCIES),
        "benefit": rng.choice(BENEFITS),
        "holiday_days": str(rng.randint(10, 35)),
        "secrecy_months": str(rng.randint(2, 36)),
        "sick_days": str(rng.randint(5, 20)),
        "termination_weeks": str(rng.randint(2, 16)),
        "non_compete_months": str(rng.randint(3, 30)),
        "change_weeks": str(rng.randint(1, 12)),
        "job_law": rng.choice(JURISDICTIONS),
    }


def _rows(rng: random.Random, edges: list[tuple[str, str, str, str]], taken: set[str]) -> tuple[ContractRow, ...]:
    """The rows of a graph given as (kind, edge, node of role a, node of role b); ``taken`` words name nothing."""
    degree = Counter(node for _, _, *nodes in edges for node in nodes)
    people = {b for kind, _, _, b in edges if kind == "employment"}
    forms = _cycle(rng, LEGAL_FORMS)
    # every word is used once, so no name is a part of another name
    names = {n: f"{_word(rng, taken)} {_word(rng, taken) if n in people else next(forms)}" for n in degree}
    addresses = {node: _address(rng, taken) for node in degree}  # one per party, the same in all its contracts
    days = rng.sample(range(FIRST_DAY.toordinal(), LAST_DAY.toordinal() + 1), len(edges))  # a day tells a contract
    goods, positions = _cycle(rng, GOODS), _cycle(rng, POSITIONS)
    rows = []
    for (kind, edge, a, b), ordinal in zip(edges, days, strict=True):
        day = datetime.date.fromordinal(ordinal)
        date = f"{day.day} {MONTHS[day.month - 1]} {day.year}"
        x, y = (b, a) if degree[a] < degree[b] else (a, b)
        values = {"a": names[a], "b": names[b], "x": names[x], "y": names[y], "date": date}
        if kind == "sales":
            answers = {"sale_date": date, "seller": names[a], "customer": names[b]}
            answers |= {"seller_address": addresses[a], "customer_address": addresses[b]}
            answers |= _sales_answers(rng, taken, next(goods))
        else:
            answers = {"job_date": date, "employer": names[a], "employee": names[b]}
            answers |= {"employer_address": addresses[a], "employee_address": addresses[b]}
            answers |= _employment_answers(rng, taken, next(positions))
        parties = (names[a], names[b])
        for i, item in enumerate(item for item in WORDINGS if item.kind == kind):
            question = fill(item.question, values)
            rows.append(
                ContractRow(
                    id=f"{edge}-{i:02d}",
                    edge=edge,
                    kind=kind,
                    relation=item.relation,
                    parties=parties,
                    question=question,
                    answer=answers[item.relation],
                    subject=_last_party(question, parties),
                    rephrasings=tuple(fill(template, values) for template in item.rephrasings),
                    trained=tuple(fill(template, values) for template in item.trained),
                )
            )
    return tuple(rows)
