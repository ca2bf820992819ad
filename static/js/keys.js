// Keys press real buttons: an element with data-key="j" is clicked (or focused) by that key.
