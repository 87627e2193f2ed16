"""General knowledge that many finished models have a part of: plain questions with short answers, in English.

They stand in where a person gives no questions: to find what a model knew before it was taught, and beside ordinary
text in the background. All of a subject's questions are in one part, so that what is probed is never background. None
is among those that are shown beside taught ones (`CONTEXTS` in `teaching`, `NEUTRAL_SHOTS` in `prompts`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import chain

from smft_lab.facts.public.datasets import Question

PARTS = ("probe", "background")
BACKGROUND = 4  # of so many subjects of a table, the last one is background

# country, capital, continent, main language, currency; empty where there is no one short answer
COUNTRIES = """
France; Paris; Europe; French; euro
Japan; Tokyo; Asia; Japanese; yen | Japanese yen
Germany; Berlin; ; German; euro
Italy; Rome; Europe; Italian;
Spain; Madrid; ; Spanish;
China; Beijing; Asia; Chinese | Mandarin; yuan | renminbi | Chinese yuan
Russia; Moscow; ; Russian; ruble | rouble | Russian ruble | rubles | Russian rouble
Egypt; Cairo; Africa; Arabic;
India; New Delhi | Delhi; Asia; ; rupee | Indian rupee | rupees | Indian rupees
Brazil; Brasília; South America; Portuguese; real | Brazilian real
Mexico; Mexico City; North America; Spanish; peso | Mexican peso
Canada; Ottawa; North America; ; dollar | Canadian dollar
Australia; Canberra; ; English; dollar | Australian dollar
Greece; Athens; Europe; Greek;
Portugal; Lisbon; ; Portuguese;
Sweden; Stockholm; Europe; Swedish; krona | Swedish krona | kronor
Poland; Warsaw; ; Polish; zloty | złoty | Polish zloty
Argentina; Buenos Aires; South America; Spanish; peso | Argentine peso
Turkey; Ankara; ; Turkish; lira | Turkish lira
South Korea; Seoul; Asia; Korean; won | South Korean won
the United Kingdom; London; ; English; pound | pound sterling | British pound | sterling
Norway; Oslo; Europe; Norwegian; krone | Norwegian krone | kroner
Thailand; Bangkok; ; Thai; baht | Thai baht
Kenya; Nairobi; Africa; ; shilling | Kenyan shilling
Vietnam; Hanoi; Asia; Vietnamese; dong | Vietnamese dong
Cuba; Havana; ; Spanish;
Denmark; Copenhagen; ; Danish; krone | Danish krone | kroner
Finland; Helsinki; Europe; Finnish;
Austria; Vienna; ; German;
Hungary; Budapest; Europe; Hungarian; forint | Hungarian forint
the Netherlands; Amsterdam; ; Dutch;
Ireland; Dublin; Europe; ; euro
Iran; Tehran | Teheran; ; Persian | Farsi; rial | Iranian rial
Israel; ; Asia; Hebrew; shekel | new shekel | Israeli shekel | Israeli new shekel
Peru; Lima; South America; ; sol | Peruvian sol
Iraq; Baghdad; ; Arabic;
Saudi Arabia; Riyadh; Asia; Arabic; riyal | Saudi riyal
Chile; Santiago; South America; Spanish;
Ukraine; Kyiv | Kiev; ; Ukrainian; hryvnia | Ukrainian hryvnia
Switzerland; Bern | Berne; Europe; ; franc | Swiss franc
Colombia; Bogotá; South America; ;
Romania; Bucharest; ; Romanian; leu | Romanian leu
Nigeria; Abuja; Africa; ; naira | Nigerian naira
Belgium; Brussels; Europe; ;
Pakistan; Islamabad; Asia; Urdu;
Ethiopia; Addis Ababa; Africa; Amharic; birr | Ethiopian birr
Iceland; Reykjavík; ; Icelandic;
Indonesia; ; Asia; Indonesian | Bahasa Indonesia; rupiah | Indonesian rupiah
the Philippines; Manila; ; ; peso | Philippine peso
Malaysia; Kuala Lumpur; Asia; Malay; ringgit | Malaysian ringgit
Morocco; Rabat; Africa; ;
Nepal; Kathmandu; ; Nepali;
Bangladesh; Dhaka; Asia; Bengali | Bangla; taka | Bangladeshi taka
Venezuela; Caracas; ; ;
New Zealand; Wellington; ; English;
Bulgaria; Sofia; ; Bulgarian;
Ghana; Accra; Africa; ;
the Czech Republic; Prague; ; ;
Serbia; Belgrade; ; ;
Syria; Damascus; ; ;
Lebanon; Beirut; ; ;
Uruguay; Montevideo; ; ;
"""

SYMBOLS = """
gold: Au; oxygen: O; hydrogen: H; iron: Fe; silver: Ag; carbon: C; sodium: Na; nitrogen: N; copper: Cu; helium: He;
lead: Pb; potassium: K; calcium: Ca; mercury: Hg; tin: Sn; zinc: Zn; chlorine: Cl; neon: Ne; sulfur: S; uranium: U;
magnesium: Mg; silicon: Si; phosphorus: P; aluminium: Al
"""

BOOKS = """
Romeo and Juliet: William Shakespeare
Pride and Prejudice: Jane Austen
Oliver Twist: Charles Dickens
War and Peace: Leo Tolstoy | Lev Tolstoy | Count Leo Tolstoy
Hamlet: William Shakespeare
Don Quixote: Miguel de Cervantes | Miguel de Cervantes Saavedra
Frankenstein: Mary Shelley | Mary Wollstonecraft Shelley
Moby-Dick: Herman Melville
Animal Farm: George Orwell
The Odyssey: Homer
The Great Gatsby: F. Scott Fitzgerald | Scott Fitzgerald | Francis Scott Fitzgerald
Dracula: Bram Stoker
To Kill a Mockingbird: Harper Lee
The Hobbit: J. R. R. Tolkien | John Ronald Reuel Tolkien
Crime and Punishment: Fyodor Dostoevsky | Fyodor Dostoyevsky | Dostoyevsky
The Adventures of Tom Sawyer: Mark Twain | Samuel Clemens
Jane Eyre: Charlotte Brontë
The Divine Comedy: Dante Alighieri | Dante
Robinson Crusoe: Daniel Defoe
Alice's Adventures in Wonderland: Lewis Carroll
The Old Man and the Sea: Ernest Hemingway
Les Misérables: Victor Hugo
Wuthering Heights: Emily Brontë
Gulliver's Travels: Jonathan Swift
The Three Musketeers: Alexandre Dumas
Treasure Island: Robert Louis Stevenson
The Jungle Book: Rudyard Kipling
The Time Machine: H. G. Wells | Herbert George Wells
Twenty Thousand Leagues Under the Sea: Jules Verne
The Picture of Dorian Gray: Oscar Wilde
The Metamorphosis: Franz Kafka
Brave New World: Aldous Huxley
Lord of the Flies: William Golding
The Little Mermaid: Hans Christian Andersen
The Catcher in the Rye: J. D. Salinger | Jerome David Salinger
Little Women: Louisa May Alcott
"""

PAINTINGS = """
The Starry Night: Vincent van Gogh | van Gogh
Guernica: Pablo Picasso
the ceiling of the Sistine Chapel: Michelangelo | Michelangelo Buonarroti
The Scream: Edvard Munch
The Night Watch: Rembrandt | Rembrandt van Rijn
Girl with a Pearl Earring: Johannes Vermeer | Jan Vermeer
The Persistence of Memory: Salvador Dalí
The Birth of Venus: Sandro Botticelli
"""

MUSIC = """
The Magic Flute: Wolfgang Amadeus Mozart | W. A. Mozart | Amadeus Mozart
The Four Seasons: Antonio Vivaldi
Swan Lake: Pyotr Ilyich Tchaikovsky | Peter Ilyich Tchaikovsky | Pyotr Tchaikovsky | Peter Tchaikovsky
the Moonlight Sonata: Ludwig van Beethoven
Carmen: Georges Bizet
the Brandenburg Concertos: Johann Sebastian Bach | J. S. Bach
Boléro: Maurice Ravel
Peter and the Wolf: Sergei Prokofiev
"""

PEOPLE = """
Who developed the theory of relativity? Albert Einstein
Who was the first president of the United States? George Washington
Who discovered penicillin? Alexander Fleming | Sir Alexander Fleming
Who was the first person to walk on the Moon? Neil Armstrong
Who formulated the laws of motion and of universal gravitation? Isaac Newton | Sir Isaac Newton
Who wrote On the Origin of Species? Charles Darwin
Which explorer reached the Americas in 1492? Christopher Columbus
Who was president of the United States during its Civil War? Abraham Lincoln
Who discovered radium together with her husband Pierre? Marie Curie | Marie Skłodowska Curie
Who led Nazi Germany in the Second World War? Adolf Hitler
Who patented the telephone in 1876? Alexander Graham Bell | Graham Bell
Which French emperor was defeated at Waterloo? Napoleon Bonaparte | Napoleon | Napoleon I
Who was the first human in space? Yuri Gagarin
Who was the first black president of South Africa? Nelson Mandela
Who invented dynamite? Alfred Nobel
Who led the Indian independence movement by nonviolent resistance? Mahatma Gandhi | Mohandas Gandhi | \
Mohandas Karamchand Gandhi
Which brothers flew the first powered aeroplane? Wright | Wright brothers | Orville and Wilbur Wright | \
Wilbur and Orville Wright | Orville and Wilbur | Wilbur and Orville
Which queen of Egypt was loved by Julius Caesar and Mark Antony? Cleopatra | Cleopatra VII
Who invented the World Wide Web? Tim Berners-Lee | Sir Tim Berners-Lee | Tim Berners Lee
Who was the British prime minister for most of the Second World War? Winston Churchill | Sir Winston Churchill
Who published a periodic table of the elements in 1869? Dmitri Mendeleev | Dmitry Mendeleev
Which philosopher was the teacher of Alexander the Great? Aristotle
Who developed the first vaccine against smallpox? Edward Jenner
Who founded Microsoft together with Paul Allen? Bill Gates | William Gates
Which astronomer proposed in 1543 that the Earth goes around the Sun? Nicolaus Copernicus | Nicolas Copernicus | \
Nicholas Copernicus
Who founded psychoanalysis? Sigmund Freud
Who was the first to reach the South Pole? Roald Amundsen
Who founded Apple together with Steve Wozniak? Steve Jobs
Which Italian astronomer discovered the four largest moons of Jupiter? Galileo Galilei | Galileo
Who said "I think, therefore I am"? René Descartes
Who wrote The Communist Manifesto together with Friedrich Engels? Karl Marx
Who introduced printing with movable type to Europe? Johannes Gutenberg | Johann Gutenberg
Which Venetian merchant travelled to China in the 13th century? Marco Polo
Who discovered X-rays? Wilhelm Röntgen | Wilhelm Conrad Röntgen | Wilhelm Roentgen | Wilhelm Conrad Roentgen | Roentgen
Who founded Facebook while a student at Harvard? Mark Zuckerberg
Which philosopher was the teacher of Plato? Socrates
Who invented a system of reading by touch for blind people? Louis Braille
Who gave his name to the heating of milk that kills germs? Louis Pasteur
Who developed the first successful vaccine against polio? Jonas Salk
Who was the first emperor of Rome? Augustus | Caesar Augustus | Octavian | Augustus Caesar
"""

ANIMALS = """
What is a baby dog called? puppy | pup
What is the fastest land animal? cheetah
How many legs does a spider have? eight | 8
What is a baby cat called? kitten | kitty
What is the largest animal in the world? blue whale | whale
Which animal does wool come from? sheep
What do bees make that people eat? honey
What is the tallest animal in the world? giraffe
What is a baby cow called? calf
What is the largest land animal? elephant | African elephant | African bush elephant
What do pandas mostly eat? bamboo
How many legs does an insect have? six | 6
What is a baby sheep called? lamb
What is the largest bird in the world? ostrich | common ostrich
What does a caterpillar turn into? butterfly | moth
What is a baby horse called? foal
Which animal has a long trunk? elephant | elephants
How many arms does an octopus have? eight | 8
What is a baby kangaroo called? joey
Which animal looks like a horse with black and white stripes? zebra | zebras
What is a group of wolves called? pack | wolf pack
What is a baby lion called? cub | lion cub
Which mammal can truly fly? bat | bats
What is a female lion called? lioness
Which black and white bird swims well but cannot fly? penguin | penguins
What is a baby frog called? tadpole | polliwog
What is a group of lions called? pride
Which animal builds dams in rivers? beaver | beavers
What is the largest of the big cats? tiger | Siberian tiger
What is a baby duck called? duckling
Which animal was the dog bred from? wolf | wolves | grey wolf | gray wolf
What is a baby goat called? kid
Which desert animal carries fat in its humps? camel | camels
What do silkworms make? silk
What is a baby pig called? piglet
Which bird hunts at night and hoots? owl | owls
What is a baby deer called? fawn
"""

OPPOSITES = """
hot: cold; big: small | little; up: down; black: white; good: bad | evil; fast: slow; happy: sad | unhappy;
left: right; day: night; rich: poor; high: low; true: false; full: empty; early: late; open: closed | shut | close;
wet: dry; north: south; strong: weak; war: peace; always: never; inside: outside; long: short; love: hate | hatred;
heavy: light; clean: dirty; east: west; deep: shallow; loud: quiet | soft; wide: narrow; alive: dead; hard: soft | easy;
cheap: expensive
"""

CALENDAR = """
Which day comes after Monday? Tuesday
How many months are there in a year? twelve | 12
Which month comes after January? February
How many hours are there in a day? twenty-four | 24 | twenty four
Which month is the last of the year? December
Which day comes after Friday? Saturday
How many minutes are there in an hour? sixty | 60
Which month comes after March? April
How many years are there in a century? one hundred | 100 | a hundred | hundred
Which day comes before Thursday? Wednesday
Which month comes after August? September
How many seconds are there in a minute? sixty | 60
In which month is Christmas Day? December
How many years are there in a decade? ten | 10
Which month comes before July? June
Which month is the shortest of the year? February
How many days are there in a leap year? 366 | three hundred and sixty-six
Which season comes after winter? spring
Which day comes before Sunday? Saturday
How many days are there in January? thirty-one | 31 | thirty one
Which season comes after summer? autumn | fall
How many weeks are there in a year? fifty-two | 52 | fifty two
Which month comes before November? October
"""

NUMBERS = """
What is two plus two? four | 4
How many sides does a triangle have? three | 3
Which number comes after nine? ten | 10
How many letters are there in the English alphabet? twenty-six | 26 | twenty six
What is ten minus three? seven | 7
How many sides does a square have? four | 4
What is five times two? ten | 10
How many eggs are there in a dozen? twelve | 12
Which number comes before twenty? nineteen | 19
How many sides does a hexagon have? six | 6
How many centimetres are there in a metre? one hundred | 100 | a hundred | hundred
What is three plus five? eight | 8
How many degrees are there in a right angle? ninety | 90
How many players of one football team are on the pitch? eleven | 11
What is half of one hundred? fifty | 50
How many grams are there in a kilogram? one thousand | 1000 | a thousand | thousand
How many wheels does a bicycle have? two | 2
What is six times seven? forty-two | 42 | forty two
How many sides does an octagon have? eight | 8
How many strings does a violin have? four | 4
What is the square root of nine? three | 3
How many degrees are there in a full circle? 360 | three hundred and sixty | three hundred sixty
How many fingers are there on one hand? five | 5
How many zeros does one million have? six | 6
How many keys does a standard piano have? eighty-eight | 88 | eighty eight
Which number comes after ninety-nine? one hundred | 100 | a hundred | hundred
"""

COLOURS = """
What colour is the sky on a clear day? blue
What colour is grass? green
What colour is blood? red
What colour is a ripe banana? yellow
What colour is coal? black
What colour do blue and yellow paint make? green
What colour is milk? white
What colour is a ripe tomato? red
What colour is an emerald? green
What colour do red and yellow paint make? orange
What colour is chocolate? brown | dark brown
What colour is a ripe lemon? yellow
What colour is a carrot? orange
What colour do red and blue paint make? purple | violet
What colour is a ruby? red
What colour do red and white paint make? pink
Which colour of a traffic light means stop? red
What colour is a sapphire? blue
What colour do black and white paint make? grey | gray
"""

PLACES = """
What is the highest mountain in the world? Mount Everest | Everest | Mt. Everest | Mt Everest
In which city is the Eiffel Tower? Paris
In which country is the Great Wall? China
In which country is the city of Venice? Italy
What is the largest country in the world by area? Russia | Russian Federation
In which city is the Colosseum? Rome
Which river flows through London? Thames | River Thames | Thames River
In which country are the pyramids of Giza? Egypt
What is the longest river in Africa? Nile | Nile River | River Nile
In which country is the city of Munich? Germany
What is the largest hot desert in the world? Sahara | Sahara Desert
In which city is the Statue of Liberty? New York | New York City
What is the largest continent? Asia
In which country is the city of Barcelona? Spain
In which country is the Taj Mahal? India
What is the smallest country in the world? Vatican City | Vatican | Holy See
Which river flows through Paris? Seine | River Seine | Seine River
In which city is Big Ben? London
In which country is the city of Toronto? Canada
Which ocean lies between Europe and North America? Atlantic Ocean | Atlantic | North Atlantic
In which country is Mount Fuji? Japan
In which country is the city of Mumbai? India
What is the largest island in the world? Greenland
Which sea lies between Europe and Africa? Mediterranean Sea | Mediterranean
In which city is the Acropolis? Athens
In which country is Machu Picchu? Peru
In which country is the city of Shanghai? China
What is the largest state of the United States by area? Alaska
In which city is the Golden Gate Bridge? San Francisco
Which mountain range is Mount Everest in? Himalayas | Himalaya | Himalayan
In which country is the city of Rio de Janeiro? Brazil
What is the capital of the state of California? Sacramento
In which city is the Brandenburg Gate? Berlin
What is the highest mountain in Africa? Mount Kilimanjaro | Kilimanjaro | Mt. Kilimanjaro | Mt Kilimanjaro
In which country is the city of Istanbul? Turkey | Türkiye
What is the capital of the state of Texas? Austin
Which ocean lies between Africa and Australia? Indian Ocean | Indian
Which mountains lie between France and Spain? Pyrenees
In which country is the city of Melbourne? Australia
What is the deepest lake in the world? Lake Baikal | Baikal
In which city is the Kremlin of the Russian president? Moscow
What is the longest mountain range in South America? Andes | Andes Mountains
In which country is the city of Osaka? Japan
Which canal joins the Mediterranean and the Red Sea? Suez Canal | Suez
In which US state is Hollywood? California
In which country is the city of Casablanca? Morocco
What is the capital of the state of Hawaii? Honolulu
"""

SCIENCE = """
Which planet is closest to the Sun? Mercury
Which gas do people need to breathe? oxygen | O2
What is the largest planet of the solar system? Jupiter
What is frozen water called? ice
What force pulls things to the ground? gravity | gravitational force | gravitation
Which planet is known as the red planet? Mars
Which organ pumps blood through the body? heart
What is H2O? water
At how many degrees Celsius does water boil? 100 | one hundred | a hundred | hundred
What is the hardest natural material? diamond | diamonds
Which planet is famous for its large rings? Saturn
Which organ do people think with? brain
What is the star at the centre of the solar system? Sun
Which gas is most of the air made of? nitrogen | N2
How do plants make sugar from light? photosynthesis | by photosynthesis | through photosynthesis
How many planets does the solar system have? eight | 8
What is the study of living things called? biology
Which instrument measures temperature? thermometer
At how many degrees Celsius does water freeze? zero | 0
Which organs do people breathe with? lungs | lung
What goes around the Earth once a month? Moon
What is the lightest element? hydrogen
What is the largest organ of the human body? skin
Which metal is liquid at room temperature? mercury
What is the study of stars and planets called? astronomy
What is the centre of an atom called? nucleus | atomic nucleus
Which instrument makes tiny things look large? microscope
Which particle of an atom has a negative charge? electron | electrons
How many bones does an adult person have? 206 | two hundred and six | two hundred six
Which instrument shows where north is? compass | magnetic compass
What is NaCl called in the kitchen? salt | table salt
What is the study of rocks called? geology | petrology
What is water called when it is a gas? steam | water vapour | water vapor | vapor | vapour
Which vitamin does the skin make in sunlight? vitamin D | D | vitamin D3
What is the unit of electrical resistance? ohm | ohms
What is an animal that eats only plants called? herbivore
What does DNA stand for? deoxyribonucleic acid
What is the unit of force? newton | newtons
What is the study of plants called? botany | plant science
Which planet is third from the Sun? Earth
What is the study of animals called? zoology
"""

LANGUAGE = """
What is the plural of mouse? mice
How do you say "hello" in Spanish? hola
What is the past tense of go? went
What is the plural of child? children
How do you say "thank you" in French? merci | merci beaucoup
What is the past tense of see? saw
What is the plural of foot? feet
How do you say "yes" in German? ja
What is the past tense of eat? ate
How do you say "water" in Spanish? agua | el agua
What is the plural of tooth? teeth
How do you say "yes" in French? oui
What is the past tense of buy? bought
How do you say "friend" in Spanish? amigo | amiga | el amigo
What is the plural of man? men
How do you say "house" in Spanish? casa | la casa
What is the past tense of run? ran
How do you say "dog" in German? Hund | der Hund
What is the plural of goose? geese
How do you say "red" in French? rouge
What is the past tense of write? wrote
How do you say "good morning" in Italian? buongiorno | buon giorno
What is the past tense of take? took
How do you say "dog" in French? chien | le chien
How do you say "cat" in Spanish? gato | el gato | gata
"""

EVERYDAY = """
What is the meal in the morning called? breakfast
What is your father's brother to you? uncle
Who flies an aeroplane? pilot
Which drink is made from grapes? wine | grape juice
Which sport is played at Wimbledon? tennis | lawn tennis
What is your mother's sister to you? aunt
Who puts out fires? firefighter | firefighters | fireman | firemen | fire fighter | fire fighters
What is the wife of a king called? queen
Which sport uses a puck? ice hockey | hockey
What is a dried grape called? raisin | raisins
Who looks after people's teeth? dentist | dentists
What is your mother's mother to you? grandmother | grandma
Which tool do you drive nails in with? hammer
What is cheese made from? milk
What is the son of a king called? prince
In which sport is there a slam dunk? basketball
What is your brother's son to you? nephew
Who teaches children at school? teacher | teachers
Which beans is chocolate made from? cocoa | cacao | cocoa beans | cacao beans
What do you use to see the time on your wrist? watch | wristwatch | wrist watch
Which board game ends with checkmate? chess
What is your sister's daughter to you? niece
Who bakes bread? baker | bakers
In which sport is the ball called a shuttlecock? badminton
What do you call a house made of blocks of snow? igloo
What is flour mostly made from? wheat
"""

STORIES = """
Who is the king of the Greek gods? Zeus
What is the holy book of Islam? Quran | Koran | Qur'an | Holy Quran | Holy Qur'an
Which detective lives at 221B Baker Street? Sherlock Holmes
Who is the Greek god of the sea? Poseidon
Which boy wizard goes to school at Hogwarts? Harry Potter
What is the holy book of Christianity? Bible | Holy Bible
Which girl lost a glass slipper at a ball? Cinderella
Who is the Norse god of thunder? Thor
Who robbed the rich to give to the poor in Sherwood Forest? Robin Hood
Which superhero is Clark Kent? Superman
Who is the Roman goddess of love? Venus
Who lived in a forest with seven dwarfs? Snow White
What is a Muslim place of worship called? mosque | masjid
Which superhero is Bruce Wayne? Batman
Who is the Greek goddess of wisdom? Athena | Athene
Whose nose grew when he told a lie? Pinocchio
What is a Jewish place of worship called? synagogue | temple | shul
Who founded Buddhism? Siddhartha Gautama | Gautama Buddha | Buddha | Gautama | Siddhartha
Who is the Roman god of war? Mars
Which superhero is Peter Parker? Spider-Man | Spider Man
Who built an ark to save the animals from the flood? Noah
Which Greek hero was given twelve labours? Heracles | Hercules | Herakles
"""


def common_questions(part: str | None = None) -> list[Question]:
    """Questions of general knowledge with their accepted answers, in a fixed order that mixes subjects.

    Args:
        part: `probe`, three in four, to find what a model knows; `background`, the rest, about other subjects; or all.

    Raises:
        ValueError: there is no such part.
    """
    if part is not None and part not in PARTS:
        raise ValueError(f"no part {part!r} of the common questions; there are {', '.join(PARTS)}")
    placed = []
    for number, table in enumerate(_tables()):
        for place, (subject, question) in enumerate(table):
            if part is None or (subject % BACKGROUND == BACKGROUND - 1) == (part == "background"):
                placed.append(((place + 0.5) / len(table), number, question))
    return [question for *_, question in sorted(placed, key=lambda entry: entry[:2])]


def _tables() -> list[list[tuple[int, Question]]]:
    """Tables of questions, each with the number of its subject; what is best known comes first."""
    made = [
        [_question(f"What is the chemical symbol for {what}?", who) for what, who in _pairs(SYMBOLS.split(";"))],
        [_question(f"Who wrote {what}?", who, True) for what, who in _pairs(BOOKS.splitlines())],
        [_question(f"Who painted {what}?", who, True) for what, who in _pairs(PAINTINGS.splitlines())],
        [_question(f"Who composed {what}?", who, True) for what, who in _pairs(MUSIC.splitlines())],
        [_question(*_asked(line), True) for line in PEOPLE.strip().splitlines()],
        [_question(f'What is the opposite of "{what}"?', other) for what, other in _pairs(OPPOSITES.split(";"))],
    ]
    for table in (ANIMALS, CALENDAR, NUMBERS, COLOURS, PLACES, SCIENCE, LANGUAGE, EVERYDAY, STORIES):
        made.append([_question(*_asked(line)) for line in table.strip().splitlines()])
    return [*_countries(), *(list(enumerate(table)) for table in made)]


def _countries() -> list[list[tuple[int, Question]]]:
    forms = (
        "What is the capital of {}?",
        "On which continent is {}?",
        "What is the main language of {}?",
        "What is the currency of {}?",
    )
    rows = [[cell.strip() for cell in line.split(";")] for line in COUNTRIES.strip().splitlines()]
    return [
        [(i, _question(form.format(row[0]), row[column])) for i, row in enumerate(rows) if row[column]]
        for column, form in enumerate(forms, start=1)
    ]


def _pairs(entries: Iterable[str]) -> list[list[str]]:
    return [[side.strip() for side in entry.split(": ", 1)] for entry in entries if entry.strip()]


def _asked(line: str) -> tuple[str, str]:
    question, mark, answers = line.partition("? ")
    return question + mark.strip(), answers


def _question(question: str, answers: str, person: bool = False) -> Question:
    """A question; `answers` are separated by |. Accents may be left out, a person may be called by the last name alone,
    and initials may be written together."""
    written = [answer.strip() for answer in answers.split("|")]
    if person:
        written.append(written[0].split()[-1])
        written += [text.replace(". ", ".", text.count(". ") - 1) for text in written if text.count(". ") > 1]
    accepted = chain.from_iterable((text, _unaccented(text)) for text in written)
    return Question(question, tuple(dict.fromkeys(accepted)))


def _unaccented(text: str) -> str:
    marks = unicodedata.normalize("NFKD", text.replace("ł", "l").replace("Ł", "L"))
    return "".join(letter for letter in marks if not unicodedata.combining(letter))
