"""Words of the reference language: plain lists that the task generators draw from."""

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

# Ticket topics: the label and what customers write about it ({p} product, {m} amount, {d} day, {n} number).
TOPICS = {
    "billing": (
        "I was charged twice for the {p}",
        "the invoice for the {p} shows {m} euros too much",
        "my card was debited {m} euros and I do not know why",
        "the discount is missing on the bill for the {p}",
        "I paid {m} euros on {d} but you still send me reminders",
        "the tax on my invoice is wrong",
        "please send me a receipt over {m} euros",
    ),
    "delivery": (
        "the {p} has not arrived yet",
        "my parcel with the {p} is stuck since {d}",
        "the courier left the {p} at the wrong house",
        "the tracking page has not moved for {n} days",
        "I ordered the {p} on {d} and nobody has brought it",
        "the driver did not ring and took the {p} away again",
        "when will the package with the {p} be here",
    ),
    "login": (
        "I cannot sign in any more",
        "my password is refused since {d}",
        "the code for signing in never reaches me",
        "my account is locked after {n} attempts",
        "the link for a new password does not work",
        "somebody changed the address of my account",
        "the app throws me out and asks who I am",
    ),
    "repair": (
        "the {p} stopped working after {n} days",
        "the {p} makes a loud noise and gets hot",
        "a part of the {p} broke off on {d}",
        "the {p} does not switch on",
        "the {p} leaks and smells burnt",
        "the button of the {p} is jammed",
        "the {p} turns itself off after {n} minutes",
    ),
    "returns": (
        "I want to send the {p} back",
        "the {p} is too small and I would like to swap it",
        "I changed my mind about the {p} and want my money back",
        "which address do I post the unwanted {p} to",
        "I need a label to send back the {p} from {d}",
        "you sent {n} pieces of the {p} and I want to give the rest back",
        "the colour of the {p} does not suit me, please exchange it",
    ),
    "advice": (
        "which {p} would suit a small flat",
        "does the {p} work with a {q}",
        "is the {p} better than the one from last year",
        "how loud is the {p} before I buy one",
        "do you have a {p} for less than {m} euros",
        "will there be a new {p} this year",
        "can the {p} be used outdoors",
    ),
}
