"""An episode's view as a person reads it: messages, moments, reasons, tokens and branches."""
