"""What `gateway doctor` looks at, one module for each noun; each gives findings and prints nothing."""
