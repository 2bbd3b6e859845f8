"""Words and sentences of the reference language: what the task generators draw from. `{slot}`s are filled by them."""


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


NAMES = (
    "Anna Ben Carla David Ella Finn Greta Hugo Ida Jonas Kira Leo Mara Nils Olga Paul Rosa Sven Tara Uwe "
    "Vera Willem Yara Zoe Adam Bella Cora Dario Edith Felix Gina Henry Iris Jakob Karla Lukas Mona Noah "
    "Otto Petra Ralf Sofia Timo Ursula Viktor Wanda Alan Berta Clara Dirk Emil Frida Gustav Hanna Igor Julia"
).split()
SURNAMES = (
    "Berg Lund Meyer Novak Rossi Silva Kowal Petit Weber Costa Hansen Moreau Klein Varga Santos Fischer "
    "Nagy Lindt Marek Dubois Jensen Romano Keller Ortiz Sato Brandt Olsen Ricci Duval Horvat"
).split()
CITIES = (
    "Oslo Paris Rome Berlin Vienna Lisbon Madrid Dublin Athens Prague Warsaw Bern Malmo Turin Lyon Porto "
    "Gdansk Bergen Ghent Basel Graz Split Riga Tallinn Bilbao Nantes Leeds York Cork Zagreb"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
JOBS = (
    "baker teacher nurse farmer driver tailor painter singer lawyer dentist gardener plumber writer cook "
    "librarian carpenter pilot florist barber miner"
).split()
COLOURS = "red blue green white black yellow grey brown purple orange".split()
COUNTED = (
    "apples pears books pens coins stamps shells cards eggs plums buttons marbles tickets candles stickers "
    "beads cups plates roses lemons nuts bricks ribbons pencils badges"
).split()
CONTAINERS = "boxes bags baskets shelves crates trays drawers jars".split()
PRODUCTS = (
    "lamp kettle phone camera chair heater radio printer tent bicycle jacket blender clock toaster speaker "
    "scale monitor drill fan vacuum keyboard watch backpack mixer"
).split()

# What a review may be about: the thing itself and the parts of it that can be good or bad.
SUBJECTS = {
    "restaurant": "food soup staff music bread dessert menu waiter kitchen terrace".split(),
    "hotel": "room bed staff breakfast view lobby shower garden pool pillow".split(),
    "film": "plot acting music ending script pacing cast dialogue camera humour".split(),
    "phone": "screen battery sound camera design speaker keyboard signal case charger".split(),
    "book": "story style ending plot language opening cover chapters hero pacing".split(),
    "course": "teacher pace material room homework videos exam group schedule tone".split(),
    "museum": "collection guide lighting building shop cafe tour rooms signs garden".split(),
    "jacket": "fabric fit zip colour lining hood stitching pockets shape collar".split(),
}
GOOD = (
    "great lovely superb excellent charming solid delightful splendid pleasant brilliant wonderful fine "
    "impressive perfect good outstanding beautiful clever enjoyable stunning fantastic nice admirable sound"
).split()
BAD = (
    "awful bland dull poor dreadful terrible weak messy horrible bad disappointing clumsy tedious ugly shoddy "
    "mediocre lousy unpleasant pathetic sloppy dismal flawed annoying miserable"
).split()

# --- reviews ---------------------------------------------------------------------------------------------------------

NEGATIONS = ("not", "never", "far from", "anything but", "by no means", "hardly")
DEGREES = ("", "", "very ", "quite ", "really ", "rather ", "truly ")
STARTS = ("the", "the", "the", "I found that the", "we thought the", "for me the")
NEGATED = "the {part} {verb} {negation} {word}"
SAID = "{start} {part} {verb} {degree}{word}"
VERDICTS = (
    "{main}",
    "{main} and {more}",
    "{other}, but {main}",
    "although {other}, {main}",
    "{main}, even if {other}",
    "{main}. {More}",
)
SETTINGS = _lines("""
    We tried this {subject} on {day}.
    {name} told me about the {subject}.
    A {subject} from {city}.
    My second {subject} since {month}.
    I chose the {subject} with {name} in {city}.
    This {subject} was a gift from {name}.
""")
ASIDES = _lines("""
    It was {day}.
    There were {number} of us.
    {name} has the same {subject}.
    It cost {number} euros.
    I write this after {number} days.
    {name} came along.
""")

# --- tickets ---------------------------------------------------------------------------------------------------------

# The label and what customers write about it ({p} and {q} products, {m} amount, {d} day, {n} number).
TOPICS = {
    "billing": _lines("""
        I was charged twice for the {p}
        the invoice for the {p} shows {m} euros too much
        my card was debited {m} euros and I do not know why
        the discount is missing on the bill for the {p}
        I paid {m} euros on {d} but you still send me reminders
        the tax on my invoice is wrong
        please send me a receipt over {m} euros
    """),
    "delivery": _lines("""
        the {p} has not arrived yet
        my parcel with the {p} is stuck since {d}
        the courier left the {p} at the wrong house
        the tracking page has not moved for {n} days
        I ordered the {p} on {d} and nobody has brought it
        the driver did not ring and took the {p} away again
        when will the package with the {p} be here
    """),
    "login": _lines("""
        I cannot sign in any more
        my password is refused since {d}
        the code for signing in never reaches me
        my account is locked after {n} attempts
        the link for a new password does not work
        somebody changed the address of my account
        the app throws me out and asks who I am
    """),
    "repair": _lines("""
        the {p} stopped working after {n} days
        the {p} makes a loud noise and gets hot
        a part of the {p} broke off on {d}
        the {p} does not switch on
        the {p} leaks and smells burnt
        the button of the {p} is jammed
        the {p} turns itself off after {n} minutes
    """),
    "returns": _lines("""
        I want to send the {p} back
        the {p} is too small and I would like to swap it
        I changed my mind about the {p} and want my money back
        which address do I post the unwanted {p} to
        I need a label to send back the {p} from {d}
        you sent {n} pieces of the {p} and I want to give the rest back
        the colour of the {p} does not suit me, please exchange it
    """),
    "advice": _lines("""
        which {p} would suit a small flat
        does the {p} work with a {q}
        is the {p} better than the one from last year
        how loud is the {p} before I buy one
        do you have a {p} for less than {m} euros
        will there be a new {p} this year
        can the {p} be used outdoors
    """),
}
SETTLED = (
    "Last month I wrote that {aside}, which is settled. Now {ask}.",
    "{Ask} Forget my older note that {aside}.",
    "This is not about the old matter ({aside}). {Ask}",
)
OPENINGS = ("", "", "Hello, ", "Dear team, ", "Good morning, ", "Hi, ")
CLOSINGS = ("", "", " Thank you.", " Regards, {name}", " Please help.", " Call me.")
NUMBERS = ("", "", " Order {number}.")

# --- arithmetic ------------------------------------------------------------------------------------------------------

TIMES = _lines("""
    Then the number grows {number} times.
    They fill {number} {containers} with as many each.
""")
OVER = _lines("""
    They share them among {number} friends and look at one share.
    They spread them over {number} {containers} and take one.
""")
MINUS = _lines("""
    They give {number} to {name}.
    They lose {number} {thing}.
    They sell {number} on {day}.
""")
PLUS = _lines("""
    {name} brings {number} more.
    They buy {number} {thing} on {day}.
    They find {number} more {thing}.
""")
QUESTIONS = _lines("""
    How many {thing} are there now?
    How many is that?
    How many {thing} remain?
""")

# --- briefs ----------------------------------------------------------------------------------------------------------

OBJECTS = "launch audit meeting course repair concert delivery survey workshop auction harvest contract".split()
REASONS = _lines("""
    the printer broke
    the hall is closed
    two drivers are ill
    the budget was cut
    the samples came late
    the permit is missing
    the roof leaks
    the speaker fell ill
    the price went up
    the road is blocked
    the old plan had errors
    the client asked for it
""")
# What was decided, in three ways, and the sentence that says so.
DECISIONS = (
    (
        _lines("""
            The {item} in {city} moves from {first} to {second}.
            {Item} in {city}: not {first}, now {second}.
            Planned for {first}, the {item} in {city} will be {at} {second} instead.
        """),
        "The {item} in {city} was moved to {second} because {reason}.",
    ),
    (
        _lines("""
            The {item} in {city} is off.
            No {item} in {city} in the end.
            They gave up the {item} in {city}.
        """),
        "The {item} in {city} was cancelled because {reason}.",
    ),
    (
        _lines("""
            {name} hands the {item} in {city} to {other}.
            From now on {other}, not {name}, runs the {item} in {city}.
            The {item} in {city} goes from {name} to {other}.
        """),
        "{other} took over the {item} in {city} from {name} because {reason}.",
    ),
    (
        _lines("""
            {amount} thousand euros more for the {item} in {city}.
            The {item} in {city} gets another {amount} thousand euros.
            Extra money for the {item} in {city}: {amount} thousand euros.
        """),
        "The {item} in {city} received {amount} thousand euros more because {reason}.",
    ),
)
WHYS = _lines("""
    Reason: {reason}.
    This is because {reason}.
    Why: {reason}.
""")

NOISE = _lines("""
    {late} was late.
    Next talk on {day}.
    {writer} wrote these notes.
    It rained in {city}.
    {one} and {two} had coffee.
    The {product} is new.
    {people} people came.
""")

# --- instructions ----------------------------------------------------------------------------------------------------

COMMANDS = (
    ("Say where {name} went.", "{name} went to {city}."),
    ("Tell me when {name} came.", "{name} came on {day}."),
    ("Write down what {name} brought.", "{name} brought {amount} {item}."),
    ("Name the one who brought {item}.", "{name} brought the {item}."),
)
RECORD = ("Name: {name}", "City: {city}", "Day: {day}", "Goods: {amount} {item}")
