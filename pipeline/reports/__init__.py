"""Reports for people: one document of plain blocks, shown as one self-contained HTML file and as a PDF of the same."""
