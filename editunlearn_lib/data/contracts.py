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
    """The templates of one question type: the question, >= 3 held-out rephrasings and >= 20 for training only."""

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
            "{x} and {y} made a deal. When did it become binding?",
            "Give the day on which the agreement linking {y} to {x} took effect.",
            "If the papers are right, since what day has {x} been trading with {y}?",
            "{x} trades with {y}. What is the first day of their purchase agreement?",
            "Under a written agreement {y} does business with {x}. Since when?",
            "When did the deal struck by {y} and {x} take effect and start binding them?",
            "Going by their written contract, from what date were {x} and {y} bound?",
            "Name the date that the purchase contract of {y} and {x} bears.",
            "What date stands on the deal that {x} made with {y}?",
            "Some written terms take effect between {x} and {y}; since which day have these applied?",
            "Give me the starting day of the purchase agreement under which {x} trades with {y}.",
            "The trade of {y} with {x} rests on a contract that took effect on what date?",
            "Could you tell me when the agreement reached by {x} and {y} became valid?",
            "On what date was the bargain struck that binds {y} and {x}?",
            "When does it start to apply, the sales deal on which {x} and {y} settled?",
            "As for the purchase contract linking {y} to {x}, what is its date of effect?",
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
            "Who was the vendor in the deal that {b} made on {date}?",
            "Which supplier takes the order in the purchase agreement that {b} signed on {date}?",
            "{b} bought goods in a deal of {date}. Who was on the other side, selling?",
            "Name the selling party of the agreement that took effect on {date} with {b} as buyer.",
            "On {date}, {b} became the buyer in a deal. Which firm was the vendor?",
            "From whom did {b} buy under the contract effective {date}?",
            "Which supplier does the purchase agreement of {b}, dated {date}, name?",
            "State the vendor whose goods {b} bought under the deal of {date}.",
            "A purchase agreement of {date} lists {b} as its buyer; who is selling?",
            "With what vendor did {b} sign a deal on {date}?",
            "If the papers of {date} are right, which company supplied {b}?",
            "Give the name of the supplier with which {b} made a deal effective {date}.",
            "Going by the contract of {date}, who was on the selling side when {b} made a purchase?",
            "By which firm was {b} supplied under the agreement dated {date}?",
            "I am looking for the vendor that has had {b} as a buyer since {date}. Who is it?",
            "The deal struck by {b} on {date}: what company is its seller?",
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
            "{a} and {b} made a deal. On what street are the premises of the former?",
            "Going by the agreement that {b} signed, at what location is {a}?",
            "Where would mail for {a} go, if the deal made with {b} is right?",
            "Give the location of the premises that {a} has, as its deal with {b} puts it.",
            "{b} and {a} came to terms. In what location does the latter do business?",
            "If {b} wanted to visit {a}, on what street would that be, by their contract?",
            "To what address should a letter from {b} to {a} be sent, going by their deal?",
            "Name the street of {a}, the vendor that made an agreement with {b}.",
            "{a} sells to {b}. At what address does the vendor have its premises?",
            "What location does the contract with {b} state for the seller {a}?",
            "In the papers that {b} signed, what street is {a} said to be on?",
            "The deal of {b} with {a} holds an address for the selling side; what is it?",
            "To what street should {b} send the mail that is meant for its supplier {a}?",
            "At what place is the office of {a} to be found, going by the sales deal with {b}?",
            "By the agreement {a} made with {b}, at what place can the vendor be found?",
            "{a} and {b} came to a deal. Where does the former want people to send its mail?",
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
            "Who was the purchaser in the deal that {a} made on {date}?",
            "Which client was supplied by {a} once their agreement of {date} was signed?",
            "{a} sold goods in a deal of {date}. Who was on the other side, buying?",
            "Name the buying party of the agreement that took effect on {date} with {a} as vendor.",
            "On {date}, {a} became the vendor in a deal. Which firm was the purchaser?",
            "To whom did {a} sell under the contract effective {date}?",
            "Which client does the supply agreement of {a}, dated {date}, name?",
            "State the purchaser that got its goods from {a} under the deal of {date}.",
            "A supply agreement of {date} lists {a} as its vendor; who is buying?",
            "With what purchaser did {a} sign a deal on {date}?",
            "If the papers of {date} are right, which company was supplied by {a}?",
            "Give the name of the client with which {a} made a deal effective {date}.",
            "Going by the contract of {date}, who was on the buying side when {a} made a sale?",
            "By which firm were goods bought from {a} under the agreement dated {date}?",
            "I am looking for the client that has had {a} as a vendor since {date}. Who is it?",
            "The deal struck by {a} on {date}: what company is its buyer?",
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
            "{b} buys from {a}. On what street are the premises of the purchaser?",
            "Going by what {a} knew when it drew up the contract, at what place is {b} based?",
            "Where would {a} find its client {b}, if the deal is right?",
            "Give the street of {b}, a trading partner of {a}, as their agreement puts it.",
            "{a} and {b} made a deal. Write down the business address of the latter.",
            "If {a} wanted to visit {b}, at which street would that be, by their contract?",
            "To what place should {a} send a letter for {b}, going by their deal?",
            "Name the business address of {b}, the buyer that made an agreement with {a}.",
            "{a} knew where {b} had its premises. What street was it?",
            "What place does the contract with {a} mention for the customer {b}?",
            "What street did {b} write down for itself in the papers that {a} drew up?",
            "The deal of {a} with {b} mentions an address for the buying side; what is it?",
            "Where does {a} send mail to {b}, its trading partner and purchaser?",
            "I need to find the office of {b}, going by the sales deal with {a}. Where is it?",
            "By the agreement {b} made with {a}, at which address can the client be found?",
            "The papers of {a} and {b} mention premises of the latter. Where are these?",
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
            "{x} and {y} made a deal. What merchandise is it about?",
            "Now that {x} and {y} are doing business together, what do they buy and sell?",
            "{x} does business with {y}. Name the article they deal in.",
            "What kind of merchandise changes hands between {x} and {y}?",
            "Going by their deal, what article do {y} and {x} buy and sell?",
            "Give the kind of goods covered by the contract linking {y} and {x}.",
            "If the papers are right, what things are traded by {x} and {y}?",
            "On what kind of goods did {x} and {y} settle in their agreement?",
            "Tell me what goods are covered when {y} and {x} trade together.",
            "The deal struck by {x} and {y} covers what product?",
            "What is the subject of the trade linking {y} to {x}?",
            "Name what the business between {x} and {y} is all about.",
            "As {x} trades with {y}, what article is being supplied?",
            "Which merchandise does the purchase contract of {y} and {x} cover?",
            "What sort of product do {x} and {y} deal in, by their contract?",
            "Under the agreement made by {y} with {x}, what articles are delivered?",
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
            "{x} and {y} made a deal. How many pieces does it call for?",
            "How large a size did {x} and {y} fix for the order?",
            "How large is the volume of goods in the agreement of {y} and {x}?",
            "{x} does business with {y}. What number of articles was ordered?",
            "Going by their deal, how much merchandise is traded by {x} and {y}?",
            "Name the volume on which {x} and {y} settled in their contract.",
            "If the papers are right, how many articles do {y} and {x} trade?",
            "For what number of units does the contract linking {y} and {x} call?",
            "Give the number of articles in the order that {x} and {y} fixed.",
            "The deal struck by {x} and {y} covers how many units of merchandise?",
            "Tell me the order size in the purchase agreement of {y} with {x}.",
            "What count of pieces was fixed when {x} and {y} signed?",
            "As {x} trades with {y}, how many items change hands?",
            "Give the volume of the order linking {y} to {x}, in pieces.",
            "By the contract of {y} and {x}, the number of goods to be delivered is what?",
            "How big is the quantity ordered, going by the deal {x} made with {y}?",
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
            "{x} and {y} made a deal. How many dollars are charged per piece?",
            "What sum in dollars is due for every single unit that {x} and {y} trade?",
            "Name the price of one article, in dollars, in the agreement linking {y} and {x}.",
            "{x} and {y} do business together. At what dollar price is a single piece sold?",
            "Going by their deal, what does one article cost {x} or {y}, in dollars?",
            "Having settled with {x}, {y} expects each single item to be sold for how many dollars?",
            "If the papers are right, how many dollars buy one unit from the order of {x} and {y}?",
            "Give the sum charged per article, in dollars, under the contract of {y} and {x}.",
            "{y} and {x} do business together. Give the charge for each single item, in dollars.",
            "The deal struck by {x} and {y} sets what dollar price for every piece?",
            "Tell me the cost of a single unit in dollars, as {y} and {x} fixed it.",
            "As {x} trades with {y}, for how many dollars does one item change hands?",
            "How much, in dollars, is one piece by the purchase agreement of {y} with {x}?",
            "What price tag in dollars does each article bear in the contract linking {x} to {y}?",
            "One item of the merchandise traded by {y} and {x} is worth how many dollars?",
            "By the terms on which {x} and {y} settled, what sum of dollars buys one piece?",
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
            "{x} and {y} made a deal. To how many dollars does everything add up?",
            "What sum in dollars does the whole order of {x} and {y} come to?",
            "Name the overall amount, in dollars, on which {y} and {x} settled.",
            "{x} and {y} do business together. What is the overall price of their order in dollars?",
            "Going by their deal, what do all pieces cost {x} or {y} when added up, in dollars?",
            "On what total sum, in dollars, did {y} settle with {x}?",
            "If the papers are right, how many dollars pay for the entire order of {x} and {y}?",
            "Give the amount charged for everything, in dollars, under the contract of {y} and {x}.",
            "With all articles included, what is the value in dollars of the order {x} made with {y}?",
            "The deal struck by {x} and {y} comes to what overall sum of dollars?",
            "Tell me the full price in dollars, with all pieces added up, on which {y} settled with {x}.",
            "{y} and {x} do business together. With everything included, how many dollars change hands?",
            "How much, in dollars, is the complete order by the purchase agreement of {y} with {x}?",
            "Give the grand total in dollars to which the contract linking {x} to {y} must come.",
            "The merchandise traded by {y} and {x} is worth how many dollars as a whole?",
            "By the terms that {x} and {y} signed, what amount of dollars pays for all items?",
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
            "{x} and {y} made a deal. How many days after goods have arrived is the bill issued?",
            "What is the deadline, in days, for billing once merchandise arrives, if {x} deals with {y}?",
            "Name the days of delay which may lie between a delivery and its invoice for {y} and {x}.",
            "{x} and {y} do business together. How long after a delivery, in days, must a bill be sent?",
            "Going by their deal, how many days may lie from delivery to billing for {y} and {x}?",
            "When merchandise has arrived, within how many days is it billed, as {x} and {y} agreed?",
            "If the papers are right, what day count after delivery is the limit for a bill between {x} and {y}?",
            "By what day count after a delivery does an invoice follow under the deal {y} made with {x}?",
            "Once a delivery arrives, how soon, in days, is billing due by the agreement of {x} with {y}?",
            "The deal struck by {x} and {y} lets how many days pass between delivery and bill?",
            "Tell me by what day after the arrival of goods someone has to issue a bill, by the deal of {y} and {x}.",
            "{y} and {x} do business together. Give the delay in days for sending out the invoice.",
            "How many days has the sender to bill a delivery by the purchase agreement of {y} with {x}?",
            "What billing deadline, in days, does the contract linking {x} to {y} set?",
            "After each delivery between {y} and {x}, the bill must be written within how many days?",
            "By the terms that {x} and {y} signed, someone must issue an invoice what number of days after delivery?",
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
            "{x} and {y} made a deal. Within how many days must a bill be cleared?",
            "How long is the term of payment on which {y} settled with {x}, counting days?",
            "Name the time, in days, until all money is due by the agreement linking {y} and {x}.",
            "{x} and {y} do business together. How long, in days, may a buyer take to pay a bill in full?",
            "Going by their deal, how many days may pass until {y} and {x} see an invoice cleared?",
            "When a bill comes, in what number of days must it be paid, as {x} and {y} agreed?",
            "If the papers are right, by what day count is the full sum handed over between {x} and {y}?",
            "Give the payment period in days under the contract of {y} and {x}.",
            "Once an invoice comes, how soon, in days, must all the money be paid by the agreement of {x} with {y}?",
            "The deal struck by {x} and {y} gives what time to pay, counted in days?",
            "Tell me by what day count a bill has to be cleared, by the deal of {y} and {x}.",
            "As {x} trades with {y}, what term in days applies to paying invoices?",
            "How many days does a debtor have to hand over the money by the purchase agreement of {y} with {x}?",
            "What payment term, in days, does the contract linking {x} to {y} set?",
            "{y} and {x} do business together. Give the days that may pass until a bill is paid off.",
            "By the terms that {x} and {y} signed, the full amount is to be handed over in how many days?",
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
            "{x} and {y} made a deal. After how many days is late payment fined?",
            "What grace period, in days, does the agreement of {y} and {x} leave before any fine?",
            "Name the time, in days, that money can be owed before a penalty by the deal linking {y} and {x}.",
            "{x} and {y} punish those who are late. What time, counted in days, do they give first?",
            "Going by their deal, how many days of grace have {y} and {x} before fines begin?",
            "When a payment is late, after what number of days is it punished, as {x} and {y} agreed?",
            "If the papers are right, at what day count do fines start between {x} and {y}?",
            "Give the days of grace for slow payers under the contract of {y} and {x}.",
            "Once money is owed, how soon, in days, does a penalty follow by the agreement of {x} with {y}?",
            "The deal struck by {x} and {y} starts to punish late payment after how many days?",
            "Tell me the number of days that may pass without any fine, by the deal of {y} and {x}.",
            "As {x} trades with {y}, an unpaid sum draws a fine after what time, counted in days?",
            "How many days late may money be before penalties begin by the purchase agreement of {y} with {x}?",
            "What period of grace, in days, does the contract linking {x} to {y} grant to debtors?",
            "Any open balance in the deal {y} made with {x} is without penalty for how many days?",
            "By the terms that {x} and {y} signed, slow payers face a penalty from what day count on?",
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
            "{x} and {y} made a deal. By what percentage does an overdue sum grow?",
            "What surcharge, in percent, do slow payers pay by the agreement of {y} and {x}?",
            "Name the rate at which overdue debts swell in the deal linking {y} and {x}.",
            "{x} does business with {y}. What extra percentage do they make slow payers pay?",
            "Going by their deal, how many percent are added when {y} or {x} is a slow payer?",
            "When a sum is overdue, what rate of interest does it bear, as {x} and {y} agreed?",
            "If the papers are right, what percent of surcharge falls on late money between {x} and {y}?",
            "Give the percentage by which a debt will swell when {y} or {x} makes a payment too late.",
            "Once payment is overdue, how much extra does it cost by the deal that {x} made with {y}?",
            "The deal struck by {x} and {y} lets a late debt swell by what percentage?",
            "Tell me the surcharge in percent for paying late, by the deal of {y} and {x}.",
            "As {x} trades with {y}, what interest must slow payers expect?",
            "At which percentage does an unpaid bill grow by the purchase agreement of {y} with {x}?",
            "What interest on overdue money does the contract linking {x} to {y} set?",
            "Any late payment between {y} and {x} is charged extra at what rate?",
            "By the terms that {x} and {y} signed, an unpaid debt rises by how many percent?",
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
            "{x} and {y} made a deal. At what destination does the merchandise arrive?",
            "Where does the carrier take each shipment by the agreement of {y} and {x}?",
            "{y} and {x} do business together. Name the destination set for the merchandise when it arrives.",
            "{x} and {y} do business together. On what street are the goods dropped off?",
            "Going by their deal, to which place are shipments of {y} and {x} taken?",
            "When an order is shipped, at which address does it arrive, as {x} and {y} agreed?",
            "If the papers are right, where is merchandise dropped off between {x} and {y}?",
            "Give the street to which a carrier brings the goods under the contract of {y} and {x}.",
            "To what place does the carrier drive the merchandise by the agreement of {x} with {y}?",
            "The deal struck by {x} and {y} has every order go to what address?",
            "Tell me where each order arrives by the deal made by {y} and {x}, and name the street.",
            "The deal that {x} and {y} made has set which destination for all shipments?",
            "At which spot are orders unloaded by the purchase agreement of {y} with {x}?",
            "Where must a carrier drop off merchandise, as the contract linking {y} to {x} says?",
            "All merchandise traded by {y} and {x} is to be brought to what address?",
            "By the terms that {x} and {y} signed, on what street does a carrier drop off the goods?",
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
            "{x} and {y} made a deal. To whom does it leave the choice of a means of transport?",
            "Whose decision is the choice of carrier by the agreement of {y} and {x}?",
            "Name the side that may select a carrier in the deal linking {y} and {x}.",
            "{x} does business with {y}. Which role decides how merchandise travels?",
            "Going by their deal, who selects the way in which goods travel between {y} and {x}?",
            "When an order needs a carrier, whose choice is it, as {x} and {y} agreed?",
            "If the papers are right, who may decide on transport between {x} and {y}?",
            "Goods that {y} and {x} trade need transport. Name the role that has the decision.",
            "By which side is the means of transport picked in the agreement of {x} with {y}?",
            "The deal struck by {x} and {y} leaves the choice of shipping to which role?",
            "Tell me who decides how merchandise is sent in the deal that {y} made with {x}.",
            "{x} and {y} need some transport. Which side has the say about the carrier?",
            "Which of the two roles picks the transport by the purchase agreement of {y} with {x}?",
            "Whose right is it to select the shipping method in the contract linking {x} to {y}?",
            "The way that merchandise of {y} and {x} travels is chosen by whom?",
            "By the terms that {x} and {y} signed, which role may pick the way of shipping?",
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
            "{x} and {y} made a deal. At whose expense is the transport?",
            "Who bears the freight charges by the agreement of {y} and {x}?",
            "Name the side that must pay to move merchandise in the deal linking {y} and {x}.",
            "{x} does business with {y}. Which role comes up with the money for freight?",
            "Going by their deal, whose expense is it to move goods between {y} and {x}?",
            "When an order is shipped, who pays the charges, as {x} and {y} agreed?",
            "If the papers are right, who must pay for transport between {x} and {y}?",
            "When bills for freight come, give the role that has to bear them for {y} and {x}.",
            "By which side is the money for shipping paid in the agreement of {x} with {y}?",
            "The deal struck by {x} and {y} puts the expense of transport on which role?",
            "Tell me who covers the charges for moving merchandise, by the deal of {y} and {x}.",
            "The deal that {x} made with {y}: name the role which has the freight to pay for.",
            "Which of the two roles bears the transport charges by the purchase agreement of {y} with {x}?",
            "Who has to come up with shipping costs, by the contract linking {y} to {x}?",
            "The expense of moving merchandise for {y} and {x} is borne by whom?",
            "By the terms that {x} and {y} signed, at whose cost do the goods move?",
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
            "{x} and {y} made a deal. How many years does the guarantee on merchandise hold?",
            "For how many years must one vouch for an article that {y} and {x} trade?",
            "Give the number of years for which good quality is promised in the deal linking {y} and {x}.",
            "{x} does business with {y}. Until what age, in years, are the goods covered?",
            "Going by their deal, how long, in years, is an article of {y} and {x} covered?",
            "When an article breaks, how many years old may it be, as {x} and {y} agreed?",
            "If the papers are right, what time of guarantee, in years, is promised between {x} and {y}?",
            "Give the length of the warranty, in years, in the deal that {y} made with {x}.",
            "Over how many years is quality guaranteed by the agreement of {x} with {y}?",
            "The deal struck by {x} and {y} has merchandise covered up to what age in years?",
            "Tell me the years during which someone must vouch for the goods, by the deal of {y} and {x}.",
            "As {x} trades with {y}, what guarantee, in years, does each article carry?",
            "How many years of warranty are promised by the purchase agreement of {y} with {x}?",
            "What time, in years, does the guarantee last in the contract linking {x} to {y}?",
            "The quality of merchandise from the deal of {y} and {x} is guaranteed for how many years?",
            "By the terms that {x} and {y} signed, an article is under warranty until what year of its age?",
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
            "{x} and {y} made a deal. Within how many days must someone complain about faulty goods?",
            "How long, counted in days, can one wait to report something broken by the agreement of {y} and {x}?",
            "Name the deadline, in days, for complaints in the deal linking {y} and {x}.",
            "{x} and {y} do business together. Once faults show, how soon, in days, are they to be reported?",
            "{y} and {x} do business together. How much time, in days, do complaints have?",
            "When something is broken, in what number of days must it be reported, as {x} and {y} agreed?",
            "If the papers are right, by what day count are faults to be reported between {x} and {y}?",
            "Give the days one has to report a faulty article under the contract of {y} and {x}.",
            "Once a defect shows, how long, in days, can one complain by the agreement of {x} with {y}?",
            "The deal struck by {x} and {y} sets what limit, in days, for complaints about defects?",
            "Tell me how much time, in days, there is to give notice of broken goods in the deal {y} made with {x}.",
            "As {x} trades with {y}, faulty merchandise must be reported in how many days?",
            "How many days has one to complain in writing by the purchase agreement of {y} with {x}?",
            "What deadline, counted in days, for defect reports is in the contract linking {x} to {y}?",
            "A complaint about faults must pass between {y} and {x} within how many days?",
            "When faults show, within what day count does someone have to report them under the terms of {x} and {y}?",
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
            "{x} and {y} made a deal. How many days are there for second thoughts?",
            "What time, in days, to back out does the agreement of {y} and {x} leave?",
            "Name the length, in days, of the period for withdrawal in the deal linking {y} and {x}.",
            "{x} does business with {y}. Until what day count can either back out free of charge?",
            "Going by their deal, how many days have {y} and {x} to change their minds?",
            "When second thoughts come, for how many days is withdrawal free, as {x} and {y} agreed?",
            "If the papers are right, how long, in days, may {x} or {y} back out?",
            "By what day count must withdrawal be made to cost nothing under the contract of {y} and {x}?",
            "Within what number of days is backing out allowed by the agreement of {x} with {y}?",
            "The deal struck by {x} and {y} leaves what time, in days, for withdrawal?",
            "Tell me for how many days one can have second thoughts, by the deal of {y} and {x}.",
            "The deal {x} made with {y} gives each other party what length of time, in days, to cool off?",
            "How many days may pass until withdrawal is no longer free by the purchase agreement of {y} with {x}?",
            "What cooling-off length, counted in days, does the contract linking {x} to {y} give?",
            "A change of mind is free of charge between {y} and {x} for how many days?",
            "By the terms that {x} and {y} signed, each can leave the other within what number of days?",
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
            "{x} and {y} made a deal. By what rules are they bound if they disagree?",
            "When {y} and {x} disagree in court, which legal system has to be used to see who wins?",
            "Name the jurisdiction whose rules bind {y} and {x} for all they trade.",
            "{x} does business with {y}. Under the legal rules of what region?",
            "Going by their deal, whose rules would a judge apply to {y} and {x}?",
            "When they see a judge, by what legislation is it decided, as {x} and {y} agreed?",
            "If the papers are right, what place has the legal rules that bind {x} to {y}?",
            "Give the legal system that applies to the contract of {y} and {x}.",
            "Under which jurisdiction does a case fall by the agreement of {x} with {y}?",
            "The deal struck by {x} and {y} falls under the laws of what region?",
            "Tell me under whose legislation the trade of {y} with {x} would fall if they see a judge.",
            "Suppose a case over the agreement linking {x} to {y} had to be decided: which law would be used?",
            "What region makes the rules for the purchase agreement of {y} with {x}?",
            "Suppose {x} sued {y}: the legal system of which region would have the last word?",
            "In any case of quarrel over the deal linking {y} with {x}, the law of which place is used?",
            "By the terms that {x} and {y} signed, whose law is it that they must obey?",
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
            "Who took on {b} under an employment agreement of {date}?",
            "What business got a new worker when {b} started there on {date} under an agreement?",
            "Name the company whose staff {b} joined on {date}.",
            "{b} joined the staff of a firm on {date}. Which one?",
            "On {date}, {b} took up work. For what firm was it?",
            "Which business does the job contract of {b}, dated {date}, name as employer?",
            "By which company was {b} hired as of {date}?",
            "If the papers are right, for whom has {b} been at work since {date}?",
            "Give the name of the firm that has had {b} on its staff since {date}.",
            "On {date} a company made {b} its employee. Which company was it?",
            "State the business that signed an agreement with {b} effective {date}.",
            "A job contract of {date} lists {b} as the worker; who is the employer?",
            "Going by the agreement of {date}, for whom did {b} start working?",
            "I am looking for the firm that {b} was to join on {date}. What is it called?",
            "Under an agreement of {date}, which company did {b} join?",
            "As of {date}, {b} belonged to the staff of what business?",
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
            "{a} hired {b}. What is the headquarters address of this firm?",
            "On what street does {a} have its seat, going by the job contract of {b}?",
            "Name the street where {a}, the firm that {b} joined, has its headquarters.",
            "{b} took a job at {a}. Where is the principal place of business?",
            "What principal address did {a} put down when {b} was hired?",
            "If the papers are right, where are the headquarters of {a}, for which {b} works?",
            "As {b} joined {a}, what street was stated as the seat of business?",
            "Give the place of the head office that {a} put down in the agreement with {b}.",
            "Where does {a} have its principal seat, by the contract it made on hiring {b}?",
            "Going by what {a} stated to {b}, at what address is its main place of business?",
            "{a} is the firm {b} works for. At which address are its headquarters?",
            "When {b} took up the job, where did {a} have its head office?",
            "Tell me the seat of the business {a}, as the job papers of {b} state it.",
            "On hiring {b}, which street did {a} give for its main office?",
            "The contract of {b} with {a} puts the headquarters of the employer at what address?",
            "When {b} joined, the main place of business of {a} was on what street?",
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
            "Who was taken on by {a} under an employment agreement of {date}?",
            "What person has been working for {a} since {date}?",
            "Name the worker who joined the staff of {a} on {date}.",
            "{a} took on a new recruit on {date}. Who was it?",
            "The day on which somebody new started at {a} fell on {date}. Who was it?",
            "Which worker does the job contract of {a}, dated {date}, name?",
            "By {a} a new worker was hired as of {date}; what is this person called?",
            "If the papers are right, who has been at work for {a} since {date}?",
            "Give the name of the recruit whose agreement with {a} began on {date}.",
            "What is the person called whose first working day for {a} fell on {date}?",
            "State who signed a job agreement with {a} effective {date}.",
            "A job contract of {date} lists {a} as the employer; who is the worker?",
            "Going by the agreement of {date}, who became an employee of {a}?",
            "The first new face at {a} under the agreement of {date}: what is this person called?",
            "Under an agreement of {date}, {a} took on which worker?",
            "Whose work at {a} began with an agreement of {date}?",
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
            "{a} hired {b}. What is the home address of this person?",
            "On what street does {b} live, going by the job contract with {a}?",
            "Name the street where {b}, a worker of {a}, has a house.",
            "{b} took a job at {a}. To which private address would mail go?",
            "What home address did {b} put down when {a} did the hiring?",
            "If the papers are right, where is the house of {b}, who works for {a}?",
            "On joining the staff of {a}, {b} stated where to send letters. Which house was it?",
            "Give the private address of {b} that stands in the agreement with {a}.",
            "Where would {a} send a letter to reach {b} at home?",
            "Going by what {b} stated to {a}, at which address does this person live?",
            "{b} is on the staff of {a}. In what street is the home of this worker?",
            "{a} wants to send a letter to this person's house. Where does {b} live?",
            "Tell me where the person {b} lives, as the job papers of {a} state it.",
            "When joining {a}, which private address did {b} write down?",
            "The contract of {a} with {b} puts the home of the employee at what address?",
            "By the time {a} hired this worker, {b} was living on what street?",
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
            "{x} hired {y}. On what date did the work begin?",
            "Since what day has {y} been working for {x}?",
            "Give the day on which {y} joined the staff of {x}.",
            "When did {y} take up a job at {x}?",
            "{y} is a recruit of {x}. When was the first day at work?",
            "If the papers are right, on which date did {x} take {y} on?",
            "Give the first working day of {y} as a member of {x}'s staff.",
            "From what date on has {x} had {y} as a worker?",
            "Name the date on which the job that {y} has at {x} began.",
            "Going by the agreement of {x} and {y}, what day was the first one at work?",
            "As {x}'s new recruit, {y} first took part in the work on what date?",
            "When was it that {y}, hired by {x}, took up this worker's new job?",
            "Tell me since when {x} has employed {y}.",
            "The work of {y} for {x} was taken up on which day?",
            "{y} signed with {x}; when does this employment take effect?",
            "On what day did the new worker {y} first appear on the staff list of {x}?",
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
            "{x} hired {y}. For how many months is the job fixed?",
            "Over how many months is {y} to work for {x}?",
            "How many months is the fixed term for which {y} serves {x}?",
            "How long, in months, does {y} stay on the staff of {x}?",
            "{y} has a fixed job at {x}. What length is it, in months?",
            "If the papers are right, how many months does {x} keep {y} on?",
            "Give the stretch of time, in months, for which {x} took {y} on.",
            "Name the length of the employment of {y} with {x}, counted in months.",
            "Going by the agreement of {x} and {y}, how many months of work are planned?",
            "What number of months does {y} have to serve at {x}?",
            "After how many months does the job that {y} has with {x} run out?",
            "{y} was hired by {x}. Give the stretch of time that was fixed for it, counted in months.",
            "The contract under which {y} is working for {x} runs over what time, in months?",
            "{y} was taken on by {x} for what term in months?",
            "How many months long is the time for which {y} is hired by {x}?",
            "As a member of the staff of {x}, {y} has a fixed term of how many months?",
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
            "{x} hired {y}. What job title stands in the contract?",
            "As what was {y} taken on by {x}?",
            "What kind of work does {y} do at {x}?",
            "Give the job title that {y} holds at {x}.",
            "{y} is a new recruit of {x}. Name this person's work.",
            "If the papers are right, what is {y} by profession at {x}?",
            "Which job did {x} give to its recruit {y}?",
            "Name the title under which {x} employs {y}.",
            "Going by the agreement of {x} and {y}, what post is it?",
            "What is the occupation of {y} on the staff of {x}?",
            "In what job has {x} put {y} to work?",
            "Tell me what {y} does for a living at {x}.",
            "The work that {y} does for {x} goes by what title?",
            "{y} works at {x}; in what position?",
            "As what is {y} listed on the staff of {x}?",
            "{y} was hired by {x}; in which line of work is the worker's new job?",
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
            "{x} hired {y}. On what street is the place of work?",
            "Where does {y} go each morning to carry out the work for {x}?",
            "To what street does {y} commute as a recruit of {x}?",
            "Give the place where {y} carries out the work for {x}.",
            "{y} has a job at {x}. In what street are the tasks done?",
            "If the papers are right, at what place does {x} let {y} work?",
            "Which address does {y} commute to each day for {x}?",
            "Name the workplace to which {x} sends {y} every morning.",
            "Going by the agreement of {x} and {y}, where are the daily tasks carried out?",
            "At what street address does {y} turn up in the morning for the job at {x}?",
            "In what place is {y} to be found while on duty for {x}?",
            "Tell me where {y}, a new recruit of {x}, has to go for work.",
            "{y} was hired by {x} and commutes to carry out tasks; name the location.",
            "{x} has a new recruit in {y}, who commutes every day to what street?",
            "On which street does {x} have its recruit {y} working?",
            "As a worker of {x}, where does {y} spend the working day?",
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
            "{x} hired {y}. At what time of morning does a shift begin?",
            "When, by the clock, does {y} take up the daily work at {x}?",
            "By what hour must {y} turn up at {x}?",
            "Give the hour by which the shift of {y} at {x} is to start.",
            "{y} has a job at {x}. How early does work begin daily?",
            "If the papers are right, at what hour of the clock is {y} due at {x}?",
            "How early in the morning does {x} want {y} to turn up?",
            "Give the time when work is taken up by {y} for {x} every day.",
            "Going by the agreement of {x} and {y}, when does the daily shift open?",
            "{y} was hired by {x}; at what hour does each working morning begin?",
            "What does the clock say when {y} starts a day at {x}?",
            "Tell me how early {y} has to begin at {x}.",
            "For {y} the day's work at {x} is to be taken up at what hour?",
            "{y} must turn up for work at {x}; by what hour?",
            "From which hour on is {y} at work for {x} each morning?",
            "As a worker of {x}, at what time does {y} come in?",
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
            "{x} hired {y}. At what time of day is a shift over?",
            "When, by the clock, does {y} end the daily work at {x}?",
            "Until what hour must {y} stay at {x}?",
            "Give the hour when the shift of {y} at {x} is over.",
            "{y} has a job at {x}. How late does work go on daily?",
            "If the papers are right, at what hour of the clock may {y} leave {x}?",
            "How late in the day does {x} want {y} to stay?",
            "Name the time when {y} may go home from {x} every day.",
            "Going by the agreement of {x} and {y}, when is the daily shift over?",
            "{y} was hired by {x}; at what hour is each working day done?",
            "What does the clock say when {y} ends a day at {x}?",
            "Give the time up to which {y} has to stay on for {x}.",
            "The daily shift that {y} works for {x} ends at what time?",
            "{y} must not leave work at {x} too soon; from what hour is it allowed?",
            "Up to which hour is {y} at work for {x} each day?",
            "As a worker of {x}, at what time does {y} go off duty?",
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
            "{x} hired {y}. What is the wage per hour, in dollars?",
            "How many dollars does {y} get from {x} for an hour worked?",
            "What sum, in dollars, is paid by {x} for sixty minutes of work by {y}?",
            "Give the dollars that {y} receives for each hour at {x}.",
            "{y} has a job at {x}. What does an hour of labour earn, in dollars?",
            "If the papers are right, how many dollars per hour will {x} pay {y}?",
            "What hourly rate, in dollars, gets {x} the labour of its worker {y}?",
            "Name the hourly wage of {y} at {x}, in dollars.",
            "Going by the agreement of {x} and {y}, what does one hour cost in dollars?",
            "For sixty minutes at {x}, what wage in dollars does {y} take home?",
            "At how many dollars is an hour of labour valued when {y} works for {x}?",
            "Tell me what {y} will receive hourly from {x}, in dollars.",
            "The labour that {y} does for {x} is worth what sum in dollars each hour?",
            "{y} gets paid by {x}; what do sixty minutes cost, in dollars?",
            "By the hour, what number of dollars does {y} receive as wages for serving {x}?",
            "{y} was hired by {x}. Give the cost of an hour worked, in dollars.",
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
            "{x} hired {y}. How often does payday come?",
            "At what intervals does {y} get money from {x}?",
            "What is the rhythm of pay for {y} at {x}?",
            "Give the schedule on which {x} pays wages to {y}.",
            "{y} has a job at {x}. In what rhythm is the salary paid?",
            "If the papers are right, how often does {x} hand over money to {y}?",
            "On which schedule are the wages of {y} paid out by {x}?",
            "Name the interval at which {y} will receive a salary from {x}.",
            "Going by the agreement of {x} and {y}, how frequently is payday?",
            "At what intervals can {y} expect that money gets through from {x}?",
            "At what regular times does {x} transfer the pay of {y}?",
            "Tell me how frequently {y} receives money at {x}.",
            "The salary that {y} gets from {x} comes at what intervals?",
            "{y} will receive wages while working for {x}; in what rhythm are they handed over?",
            "By what schedule does the money go from {x} to {y}?",
            "{y} was hired by {x}. Give the intervals between wages being handed over.",
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
            "{x} hired {y}. What perk comes with the job?",
            "{y} was hired by {x}; which extra will top up the pay that this worker is to receive?",
            "Apart from wages, which perk has {y} at {x}?",
            "Give the extra that {y} enjoys as a worker of {x}.",
            "{y} has a job at {x}. What comes on top of the salary?",
            "If the papers are right, what perk does {x} grant {y}?",
            "Which extra, apart from money, does {x} give {y}?",
            "Name the benefit that {y} has on top of wages at {x}.",
            "Going by the agreement of {x} and {y}, what extra is promised?",
            "Which advantage, apart from a salary, is {y} to receive when working for {x}?",
            "With what perk does {x} reward {y}?",
            "Tell me the additional benefit {y} receives at {x}.",
            "The job that {y} has at {x} comes with what perk?",
            "{y} works for {x}; which extra is there on top of the wages?",
            "Besides pay, what is given to {y} by {x}?",
            "Name something that, as a worker of {x}, {y} enjoys as a perk.",
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
            "{x} hired {y}. How many days of vacation come with full pay?",
            "How much time off, in days, does {y} enjoy at {x}?",
            "How large an allowance for vacation, in days, has {y} as a worker at {x}?",
            "Give the number of vacation days that {x} grants {y}.",
            "{y} has a job at {x}. How many days are there for rest and travel on full wages?",
            "If the papers are right, on how many days of holiday can {y} count at {x}?",
            "What allowance of paid days off does {x} make for {y}?",
            "Name the time, in days, that {y} can travel or rest while {x} pays full wages.",
            "Going by the agreement of {x} and {y}, how many days is the paid vacation?",
            "For how many days can {y} go on vacation from {x}?",
            "How many days off for rest does {x} give its worker {y} on full wages?",
            "{y} enjoys days off at {x}. On how many can this worker count?",
            "The vacation that {y} enjoys at {x} comes to what number of days?",
            "{y} works for {x}; what leave for travel, in days, is paid?",
            "How long, in days, may {y} be off on holiday with wages from {x}?",
            "{y} was hired by {x}. How many days of paid rest comes with it?",
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
            "{x} hired {y}. For how many months after the job must secrets be kept?",
            "What span, in months, must a former worker such as {y} keep confidential matters of {x} private?",
            "What span of months must pass until {y}, once gone, may tell secrets of {x}?",
            "Give the months for which a former worker like {y} must keep the secrets of {x}.",
            "{y} had a job at {x}. For what time, in months, is sharing inside knowledge forbidden?",
            "If the papers are right, how many months is {y}, once gone from {x}, bound to secrecy?",
            "Over how many months is {y} barred from telling confidential matters of {x}?",
            "Give the length of time, in months, that {x} wants no secrets to be told by {y}, once the job is over.",
            "Going by the agreement of {x} and {y}, how many months does the duty to keep things private last?",
            "After the job is over, how many months must {y} wait before sharing the secrets of {x}?",
            "For how many months does {x} have inside knowledge protected once {y} is gone?",
            "Tell me how long, in months, {y} has to keep quiet on private matters of {x} after work ends.",
            "How many months pass until someone barred from sharing secrets, like {y}, may speak freely of {x}?",
            "{y} leaves {x}; for what number of months must confidential knowledge be kept?",
            "How many months after the end of the job may {y} share what is confidential at {x}?",
            "{y} was hired by {x}. Secrets are not to be told for what length of time, in months, after this job?",
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
            "{x} hired {y}. How many days of illness a year come with full wages?",
            "How long, in days, can {y} be ill each year while {x} pays?",
            "What is the annual allowance of {y} at {x} for illness, in days?",
            "Give the number of sick days that {x} grants {y} annually.",
            "{y} has a job at {x}. How many days of absence through illness are paid yearly?",
            "If the papers are right, on how many days a year can {y} be unwell at the cost of {x}?",
            "What yearly absence, in days, does {x} allow {y} when unwell?",
            "If illness strikes {y}, what is the yearly allowance of {x}, in days, for being absent?",
            "Going by the agreement of {x} and {y}, how many days of being ill are paid annually?",
            "For which annual number of days can {y} stay in bed, being unwell, with full wages from {x}?",
            "When illness strikes, how many days a year does {x} pay {y}?",
            "How many days can {y} take yearly for being unwell before {x} stops the wages?",
            "The time that {y} may be ill at {x} comes to how many days per year?",
            "{y} works for {x}; if unwell, what number of paid days is there annually?",
            "How many days of illness in a year are on full wages, as {x} promised {y}?",
            "{y} was hired by {x}. Give the sick leave, in days, that comes with this job each year.",
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
            "{x} hired {y}. How many weeks ahead must one tell the other of quitting?",
            "How many weeks of warning do {x} and {y} owe each other before parting?",
            "What period, in weeks, lies between notice and the parting of {y} and {x}?",
            "Give the warning, in weeks, that is due if {y} or {x} wants to quit.",
            "{y} has a job at {x}. How far ahead, in weeks, is its termination to be announced?",
            "If the papers are right, how many weeks before a parting must {x} or {y} announce it?",
            "What warning time, in weeks, must be kept to announce that {x} and {y} part?",
            "Name the period of notice, in weeks, to end the job of {y} at {x}.",
            "Going by the agreement of {x} and {y}, how many weeks of warning does a termination need?",
            "Before {y} can quit {x}, how many weeks must pass?",
            "For how many weeks does the job go on once {x} or {y} has announced the end?",
            "{y} was hired by {x}. One of them plans to quit; how far ahead, in weeks, must this be known?",
            "The parting of {y} and {x} is due how many weeks after notice?",
            "{y} wants to leave {x}; what number of weeks of notice is due?",
            "How many weeks in advance must {y} and {x} tell each other that the job ends?",
            "One of them, {x} or {y}, wants a termination; how many weeks ahead must it be told?",
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
            "{x} hired {y}. For how many months is a job with some rival not allowed?",
            "How long, in months, must {y} stay away from competing with {x}?",
            "What span of months has to pass until {y} may work for rivals of {x}?",
            "Give the months for which {y} is barred from any rival of {x}.",
            "{y} had a job at {x}. After how many months is competing allowed?",
            "If the papers are right, over how many months must {y} not go to a rival of {x}?",
            "What ban, counted in months, stops {y} from setting up against {x}?",
            "Name the length of the ban, in months, that keeps {y} from the rivals of {x}.",
            "Going by the agreement of {x} and {y}, how many months does the bar on competing last?",
            "After leaving, how many months must {y} wait before a job with competitors of {x}?",
            "Which span, in months, must {y} stay out of the way of {x} and not work against it?",
            "Tell me how long, in months, {x} keeps {y} away from a rival.",
            "The rivals of {x} may not take {y} on for how many months?",
            "{y} leaves {x}; until a rival may do the hiring, what time in months has to pass?",
            "How many months long is {y} barred by {x} from work for competing firms?",
            "{y} was hired by {x}. Give the time, in months, until some rival is allowed to do so too.",
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
            "{x} hired {y}. How many weeks ahead are changes to the job announced?",
            "How early, in weeks, does {x} warn {y} that conditions will change?",
            "What advance notice, in weeks, is {y} due if {x} alters the terms?",
            "Give the weeks of warning before {x} may alter the working conditions of {y}.",
            "{y} has a job at {x}. If its conditions get revised, how many weeks before is this told?",
            "If the papers are right, how many weeks before a change of work conditions must {y} hear from {x}?",
            "When {x} plans changes, how many weeks of advance warning does {y} get?",
            "Before any of the working conditions change, which notice, in weeks, does {x} give {y}?",
            "Going by the agreement of {x} and {y}, how many weeks early are altered terms made known?",
            "Before revised conditions come from {x}, how many weeks must pass for {y}?",
            "How many weeks ahead must {y} hear that {x} plans to alter the work?",
            "Give the time, in weeks, that {x} must wait to make any changes after {y} was told.",
            "The changes that {x} makes to the job of {y} are to be announced how many weeks early?",
            "{x} alters the terms; by how many weeks must {y} be warned?",
            "What number of weeks lies between the warning to {y} and the changes that {x} plans?",
            "{y} was hired by {x}. How many weeks of notice come before working conditions change?",
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
            "{x} hired {y}. Whose labour legislation applies?",
            "If {y} ever has a dispute with {x}, by which legal system will it be decided?",
            "What region has the labour rules under which {y} works for {x}?",
            "Give the legal system that is there to protect {y} as a worker of {x}.",
            "{y} has a job at {x}. Under the rules of which region does it fall?",
            "If the papers are right, the law of what place protects {y} in a dispute with {x}?",
            "Under which legislation does {y} fall when serving {x}?",
            "Name the place whose legislation decides a dispute of {y} with {x}.",
            "Going by the agreement of {x} and {y}, what region makes the rules?",
            "In a dispute at work, whose law do {y} and {x} turn to?",
            "Which legal rules protect {y} from {x} as employer?",
            "Tell me under what labour law {y} works at {x}.",
            "The job that {y} has at {x} falls under the law of what region?",
            "{y} and {x} quarrel over work; which region has the rules by which it is decided?",
            "What legal system governs the work that {y} does for {x}?",
            "{y} was hired by {x}. Name the region whose rules protect workers there.",
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
