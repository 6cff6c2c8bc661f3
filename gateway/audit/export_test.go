package audit

// OpenSmall is Open with files of another size.
var OpenSmall = open
