package postgres

// AppendValue is appendValue for the fuzz test.
var AppendValue = appendValue
