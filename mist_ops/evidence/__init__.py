"""Evidence packs: everything behind the models of a study in one file that anyone can verify without this program."""
